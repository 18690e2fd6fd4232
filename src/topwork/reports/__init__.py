"""A model's answers, an inspection, a search → one HTML file, or a picture, for people.

`report` shows a model, `inspection_page` the data, `history_plot` a training and `trial_plot` a
search, each a `chart_file`; `pages` is what all of them share: one look, pictures inside the file,
charts as SVG, no script.
"""
