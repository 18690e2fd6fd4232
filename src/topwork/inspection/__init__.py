"""A dataset and its vectors → what is wrong with the data.

`image_stats` and `image_issues` read pixels, `label_issues` and `outliers` read vectors and
labels, `inspect` puts it all together, `verdict_rows` lists what a person should judge, and
`cache` remembers what was found.
"""
