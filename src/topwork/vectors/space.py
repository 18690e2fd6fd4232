"""What decides a vector, besides the image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

# The view whose vector is the mean over an image and its mirror, left to right.
FLIP = "flip"


@dataclass(frozen=True)
class Space:
    """Everything besides the image that decides a vector, and so what vectors can be compared.

    Attributes:
        base: name of the base.
        weights_sha256: hash of the file with its weights.
        image_size: side of the input in pixels.
        network: version of the recipe that builds the network around the base.
        decoder: version of the recipe from bytes to pixels.
        interpolation: filter of the resize.
        view: which view of the image; `original` is the whole image as it is, `flip` the mean
            over it and its mirror, `augmented-…` see `augment`.
        precision: `f32`, `bf16` or `int8`.
        calibration: for int8, names what the network was fitted to; else empty.
        ranges: which values are black and white in pictures of more than 8 bits, see
            `core.ranges`; what it does not say, each file's own values decide.
    """

    base: str
    weights_sha256: str
    image_size: int
    network: str
    decoder: str
    interpolation: str
    precision: str
    view: str = "original"
    calibration: str = ""
    ranges: str = ""

    @property
    def name(self) -> str:
        """Folder name: readable, and different wherever one of the fields is."""
        # Names from before a field was added stay valid: an empty field is left out.
        fields = {key: value for key, value in asdict(self).items() if value != ""}
        content = json.dumps(fields, sort_keys=True).encode()
        return f"{self.base}-{self.image_size}-{hashlib.sha256(content).hexdigest()[:16]}"
