"""A model's answers, an inspection, a search → one HTML file, or a picture, for people.

`report` shows a model, `inspection_page` the data, `trial_plot` a search; `pages` is what all of
them share: one look, pictures inside the file, charts as SVG, no script.
"""
