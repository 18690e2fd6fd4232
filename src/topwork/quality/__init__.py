"""What is wrong with the data: odd files, duplicates, leakage, labels in doubt, outliers.

`measures` reads pixels, `doubts` and `shape` read vectors and labels, `inspection` puts it all
together, `page` shows it, `verdicts` takes the user's answer.
"""
