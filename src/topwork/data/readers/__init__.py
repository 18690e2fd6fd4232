"""From wherever labelled images lie to a `Listing` of them.

`reading` chooses; `folder` and `archive` give `tree` names to make sense of; `table` and
`arrow_folder` give `rows` cells to make sense of.
"""
