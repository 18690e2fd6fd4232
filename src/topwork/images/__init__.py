"""From the encoded bytes of an image to pixels.

In: bytes, or a `Source` to read them from. Out: (S, S, 3) uint8 RGB, upright, as a network takes
it (`decode`, with `jpeg` where that is faster and `orientation` for EXIF), of the whole image or
of an augmented view of it (`augment` draws which); and small pictures for people (`thumbnails`).
"""
