"""From a location of labelled images to a `Listing` of them.

In: a folder, table, archive or URL. Out: a `Listing`. `reading` chooses the reader. `folder` and
`archive` list names, which `tree` interprets as class and split folders; `table` and
`arrow_folder` read cells, whose columns `columns` chooses and whose values `rows` interprets.
"""
