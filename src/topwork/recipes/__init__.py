"""The other packages strung together: images in, something a person wanted out.

`train` (of what `prepare` made; it returns a `result`), `embed` and `neighbors` are recipes;
`classifier` and `estimator` offer them in scikit-learn's manner, with the `arguments` that the
settings define, and `progress` shows how far they are.
"""
