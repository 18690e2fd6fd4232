"""Logits and the truth → figures, with how sure they are.

`scores` for every task, `calibration` of probabilities, `conformal` sets and ranges,
`significance` of differences, and `history`: figures by epoch, as a table and a picture.
"""
