"""What an inspection finds, as plain facts: each kind ranked, the worst first.

An index is that of an image in the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageIssue:
    """An image that can be used and is not like the others, or not as it seems.

    Attributes:
        index: which image.
        kind: `small`, `large`, `long`, `uniform`, `dark`, `bright`, `blurred`, `mode`, `animated`
            or `turned`.
        detail: in words, with the figure, such as `24 x 18 pixels`.
    """

    index: int
    kind: str
    detail: str


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label the vectors contradict.

    Attributes:
        index: which image.
        given: the label it has; for one of several labels its name, or `not` and its name; for
            a number its name and value.
        suggested: the label that it looks like.
        given_probability: of the label it has, 0..1, by heads that did not see the image; NaN
            for a number.
        suggested_probability: of the other; NaN for a number.
        score: 0..1, the higher the more likely the label is wrong.
    """

    index: int
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float
    score: float


@dataclass(frozen=True)
class Outlier:
    """An image that is unlike all others of its class and split, or of the whole data.

    Attributes:
        index: which image.
        distance: mean cosine distance to its nearest neighbours, 0..2.
        score: how many robust deviations that is above the median of those it is compared with.
    """

    index: int
    distance: float
    score: float


@dataclass(frozen=True)
class ClassOverlap:
    """Two classes that the vectors cannot tell apart.

    Attributes:
        first: a class.
        second: another.
        mistaken: images of either that held-out heads take for the other.
        count: images of the two that they take for one of the two.
        error: mean over the two of the share that is taken for the other, 0..1; 0.5 is a coin's.
        interval: 95 % interval of `error`.
    """

    first: str
    second: str
    mistaken: int
    count: int
    error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Shift:
    """How shares of classes, a number or a measure of the pixels differ from train to a split.

    Attributes:
        split: `validation` or `test`.
        what: `classes`, one of many labels, a number, or a measure such as `brightness`.
        distance: total variation of the shares; the difference of a label's shares; or that of
            the means in deviations.
        p_value: how often chance alone makes such a difference anywhere among all that was
            compared, 0..1.
        detail: in words, what differs most.
    """

    split: str
    what: str
    distance: float
    p_value: float
    detail: str
