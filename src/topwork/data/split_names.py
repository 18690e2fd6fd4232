"""Which split a folder, a table's cell or a part of a path is named after.

One list of words for all of them, in any case and with what people put before and after them:
`Training`, `test_set`, `train_images`, `val2017`, `Hold-out`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from enum import StrEnum

from topwork.data.listing import Split


class Part(StrEnum):
    """What a part of the data is for, by its name: a split, or images that have no labels."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    UNLABELED = "unlabeled"

    @property
    def as_split(self) -> Split | None:
        """The split that it is; None for images without labels."""
        return None if self is Part.UNLABELED else Split(self.value)


_WORDS = {
    Part.TRAIN: ("train", "training", "trainval"),
    Part.VALIDATION: (
        "val", "valid", "validation", "validate", "validating", "dev", "devel", "development",
    ),
    # What is called evaluation may be meant for either; to choose by it would cost a test.
    Part.TEST: (
        "test", "tests", "testing", "eval", "evaluation", "evaluate", "holdout", "heldout",
    ),
    Part.UNLABELED: (
        "unlabeled", "unlabelled", "unlabel", "unannotated", "unsup", "unsupervised", "pred",
        "predict", "prediction", "predictions", "inference",
    ),
}  # fmt: skip
_PARTS = {word: part for part, words in _WORDS.items() for word in words}
# Words that say nothing of what a part of the data is.
PLAIN_WORDS = frozenset((
    "all", "cropped", "data", "dataset", "datasets", "dir", "file", "files", "final", "folder",
    "image", "images", "img", "imgs", "jpeg", "jpg", "new", "original", "photo", "photos", "pic",
    "pics", "picture", "pictures", "png", "private", "public", "raw", "resized", "sample",
    "samples", "set", "sets", "small", "split", "x",
))  # fmt: skip
_TOKEN = re.compile("[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[^A-Z0-9]+")


def tokens(name: str) -> tuple[str, ...]:
    """Returns the words and numbers of a name in lower case: `TrainSet_1` is train, set, 1."""
    plain = unicodedata.normalize("NFKC", name)
    words = (word for part in re.split(r"[\W_]+", plain) for word in _TOKEN.findall(part))
    return tuple(word.casefold() for word in words)


def parse_part(name: str) -> Part | None:
    """Returns the part that a name means without doubt, such as `test_images`; else None."""
    words = [word for word in tokens(name) if not (word.isdigit() or word in PLAIN_WORDS)]
    joined = "".join(words)
    if joined in _PARTS:
        return _PARTS[joined]
    # As in `trainset` and `testdata`.
    starts = (joined.removesuffix(word) for word in PLAIN_WORDS if joined.endswith(word))
    return next((_PARTS[start] for start in starts if start in _PARTS), None)


def parse_split(name: str) -> Split | None:
    """Returns the split that a name means without doubt; None for any other."""
    part = parse_part(name)
    return None if part is None else part.as_split


def find_parts(names: Collection[str]) -> dict[str, Part]:
    """Returns which of some folders are named like parts of the data.

    Where all of them are, words of any kind may be added, if they are the same for all: as
    `seg_train` and `seg_test` are, and `bullet train` and `test tube` are not.
    """
    found = {name: part for name in names if (part := parse_part(name))}
    loose = {name: _parse_loosely(name) for name in names if name not in found}
    pairs = [pair for pair in loose.values() if pair]
    parts = {*found.values(), *(part for part, _ in pairs)}
    if len(pairs) == len(loose) and len({rest for _, rest in pairs}) == 1 and len(parts) > 1:
        found |= {name: pair[0] for name, pair in loose.items() if pair}
    return found


def _parse_loosely(name: str) -> tuple[Part, tuple[str, ...]] | None:
    """Returns the part of which a name has one word, and its other words."""
    words = tokens(name)
    named = [word for word in words if word in _PARTS]
    if len(named) != 1:
        return None
    rest = (word for word in words if not (word in named or word.isdigit() or word in PLAIN_WORDS))
    return _PARTS[named[0]], tuple(rest)
