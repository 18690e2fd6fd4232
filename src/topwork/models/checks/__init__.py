"""The files of a model, of those saved and those exported → whether they say what the model says.

`saved` checks the files of a saved model, with `keras_file` for the one that stock Keras opens
and `records` of what was found before; `exported` checks an export. All run real `images`,
compare logits by `agreement`, and allow what `tolerances` says.
"""
