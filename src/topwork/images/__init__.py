"""Bytes of an image → pixels that a network takes, upright, in its size, uint8 RGB.

`decode` does it, with `jpeg` where that is faster; `augment` turns and crops before that;
`thumbnails` makes small pictures for people.
"""
