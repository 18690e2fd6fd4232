"""Labelled images in a tree of folders: which files, of which class, for which split.

Only names are looked at, and on a disk the first bytes of files without a suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from topwork.core.data_settings import FolderMeaning
from topwork.core.errors import DatasetError
from topwork.data.listing import Listing, Skipped, Split
from topwork.data.readers.layout import find_layout
from topwork.data.readers.tree import Tree, is_image_name
from topwork.images.decode import SUFFIXES


class _Image(NamedTuple):
    """An image by its path within the tree, with its label, if any."""

    name: str
    label: str | None
    split: Split


def read_tree(
    tree: Tree,
    strict: bool,
    base: str = "",
    *,
    labelled: bool = True,
    meaning: FolderMeaning | None = None,
) -> Listing:
    """Lists the labelled images of a tree; see `Dataset.from_folder`.

    Args:
        tree: the folders.
        strict: raise at the first file that is not an image, instead of leaving it out.
        base: where they are in it, such as `photos/`.
        labelled: whether images that lie beside class folders, or where there are none, are
            left out. If not, they have no label.
        meaning: of the folders, if the user says it.

    Raises:
        DatasetError: it holds no images, its parts contradict each other, or its folders may
            be classes as well as parts.
    """
    try:
        layout = find_layout(tree, base, meaning)
    except DatasetError:
        if labelled:
            raise
        # What a folder means is of no matter where no label is needed.
        layout = find_layout(tree, base, FolderMeaning.CLASSES)
    images, skipped = list[_Image](), list[Skipped]()
    if labelled:
        skipped += [Skipped(path, reason) for _, path, reason in layout.loose]
    else:
        images += [
            _Image(path, None, part.as_split or Split.TEST) for part, path, _ in layout.loose
        ]
    for part, folder, label in layout.classes:
        names, others = _read_class(tree, folder)
        skipped += others
        if part.as_split is not None:
            images += [_Image(name, label, part.as_split) for name in names]
        elif labelled:
            skipped += [Skipped(name, "it has no label") for name in names]
        else:
            images += [_Image(name, None, Split.TEST) for name in names]
    if strict and skipped:
        first = skipped[0]
        raise DatasetError(
            f"{_join(tree.root, first.path)}: {first.reason}; remove it, or leave out --strict"
        )
    if not images:
        raise DatasetError(_explain_empty(tree.root, skipped))
    return Listing(
        root=tree.root,
        names=[image.name for image in images],
        sources=[tree.source(image.name) for image in images],
        labels=[image.label for image in images],
        splits=[image.split for image in images] if layout.divided else None,
        skipped=tuple(skipped),
        notes=tuple(layout.notes),
    )


def _read_class(tree: Tree, folder: str) -> tuple[list[str], list[Skipped]]:
    """Lists the images of one class; `folder` is its path within the root."""
    images, skipped = list[str](), list[Skipped]()
    for name in sorted(tree.walk(folder)):
        if tree.is_image(name):
            images.append(name)
        else:
            skipped.append(Skipped(name, "its name does not end like an image's"))
    if not images:
        skipped.append(Skipped(f"{folder}/", "the class has no images"))
    return images, skipped


def _explain_empty(root: str, skipped: Sequence[Skipped]) -> str:
    endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    loose = [item.path for item in skipped if is_image_name(item.path)]
    if loose:
        above, _, name = loose[0].rpartition("/")
        example = _join(root, f"{above}/cat/{name}" if above else f"cat/{name}")
        return (
            f"{root} holds images but no class folders; make one folder per class and put the "
            f"images in them, such as {example}"
        )
    return f"{root} holds no images; it needs one folder per class with images ({endings})"


def _join(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
