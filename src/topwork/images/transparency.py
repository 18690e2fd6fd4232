"""Transparent pictures are laid on paper: white, or black where white would show nothing."""

from __future__ import annotations

import numpy as np
from PIL import Image

# A difference from the paper that is seen, in levels of 0..255, and the share of a drawing, by its
# opacity, that must differ so much.
VISIBLE = 8
SHARE = 0.05
# So many pixels are enough to judge by.
_JUDGED = 1_000_000


def lay_on_paper(image: Image.Image) -> Image.Image:
    """Returns a picture with transparency as RGB, laid on the paper of `choose_paper`."""
    rgba = _to_rgba(image)
    paper = Image.new("RGBA", rgba.size, choose_paper(rgba) or "white")
    paper.alpha_composite(rgba)
    return paper.convert("RGB")


def choose_paper(image: Image.Image) -> str | None:
    """Returns the paper that shows a transparent picture.

    White, as on most pages; black for a drawing that is as light as white paper.

    Args:
        image: with transparency.

    Returns:
        `white` or `black`; None if it would be of one color on both: wholly transparent, or
        nearly so.
    """
    rgba = _to_rgba(image)
    step = max(1, int(np.sqrt(rgba.width * rgba.height / _JUDGED)))
    pixels = np.asarray(rgba)[::step, ::step]
    alpha = pixels[..., 3]
    shown = alpha > 0
    if shown.all() and (alpha == 255).all():
        return "white"
    opacity = alpha[shown].astype(np.float32) / 255
    for paper, distance in (
        ("white", 255 - pixels[..., :3].min(axis=2)),
        ("black", pixels[..., :3].max(axis=2)),
    ):
        seen = distance[shown] * opacity >= VISIBLE
        if opacity[seen].sum() > SHARE * opacity.sum():
            return paper
    return None


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGBA" else image.convert("RGBA")
