"""A head and its networks → a model: saved, loaded, asked, explained, compared, exported.

`model` predicts; `save` writes its `folder` and `checks` tells whether the files say what was
trained; `evaluate`, `compare` and `explain` put it to images, whose labels `match_data` brings to
its classes; `export` writes it for others.
"""
