"""The other packages strung together: images in, something a person wanted out.

`train` is a recipe (`prepare` makes what heads are trained on, `build_model` a `result` of the
chosen head, `save` a folder of that), and so are `embed`, `neighbors`, `layers` and `pages`;
`open_data` is how each begins. `classifier` and `estimator` offer them in scikit-learn's manner,
by its `sklearn_protocol` and with the `arguments` that the settings define; `progress` shows how
far they are, and `show_training` what came of them.
"""
