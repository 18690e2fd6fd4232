"""What the folders of a tree are: classes, or parts of the data such as `train` and `test`.

Told by their names and by what lies in them. What is no more than a guess becomes a note; where
two readings are as likely, both are named and neither is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from topwork.core.data_settings import FolderMeaning
from topwork.core.errors import DatasetError
from topwork.data.listing import SHOWN, Note, Split
from topwork.data.readers.tree import Tree, is_image_name
from topwork.data.split_names import PLAIN_WORDS, Part, find_parts, parse_part, tokens

# Of folders that go with a folder of pictures, and hold no pictures to learn from.
_COMPANIONS = frozenset((
    "annotation", "annotations", "bbox", "bboxes", "boxes", "depth", "groundtruth", "gt",
    "heatmap", "heatmaps", "label", "labels", "landmark", "landmarks", "mask", "masks",
    "segmentation", "segmentations", "truth", "xml",
))  # fmt: skip
_PICTURES = frozenset((
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures",
    "pics",
))  # fmt: skip
# Of what a data set is cut into for transport or for folds.
_PIECES = frozenset((
    "archive", "batch", "chunk", "data", "dataset", "disk", "fold", "image", "images", "imgs",
    "part", "photos", "pictures", "piece", "set", "shard", "split", "subset", "volume",
))  # fmt: skip
_OPTION = "--folders classes if those folders are the classes"
_PARTS_OPTION = "--folders parts if each holds a folder for each class"


@dataclass
class Layout:
    """Where the images of which class and part lie. Paths are relative to the root of the tree.

    Attributes:
        divided: whether the data itself says which images are for what.
        classes: part, path and label of each folder of one class.
        loose: part and path of each image without a class, with the reason why it has none.
        notes: what was guessed.
    """

    divided: bool = False
    classes: list[tuple[Part, str, str]] = field(default_factory=list)
    loose: list[tuple[Part, str, str]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def note(self, text: str, doubtful: bool = False) -> None:
        """Keeps what was guessed, for the user."""
        self.notes.append(Note(text, doubtful))


def find_layout(tree: Tree, base: str = "", meaning: FolderMeaning | None = None) -> Layout:
    """Tells what the folders of a tree are.

    Args:
        tree: the folders.
        base: where the data is in it, such as `photos/`.
        meaning: of its folders, if the user says it.

    Raises:
        DatasetError: its parts contradict each other, or two readings are as likely.
    """
    folders, loose = list_top(tree, base)
    found = Layout()
    beside = "it lies beside the class folders"
    found.loose += [(Part.TRAIN, base + name, beside) for name in loose]
    if base:
        found.note(f"{base} is taken for the data: it is the only folder in {tree.root}")
    if meaning is FolderMeaning.CLASSES:
        _add_classes(found, base, folders)
        return found
    if meaning is FolderMeaning.PARTS:
        parts = {name: find_parts(folders).get(name, Part.TRAIN) for name in sorted(folders)}
        _add_parts(tree, base, found, parts)
        return found
    parts = find_parts(folders)
    others = _find_others(tree, base, found, folders, parts)
    if parts and not others:
        _check_parts(tree.root, parts)
        _add_parts(tree, base, found, parts)
        odd = [f"{name}/ as {part}" for name, part in parts.items() if name.lower() != part]
        if odd:
            found.note(f"Folders are read as parts of the data: {', '.join(sorted(odd)[:SHOWN])}")
    else:
        _check_mixture(tree, base, parts, others)
        _find_classes(tree, base, found, folders, parts)
    return found


def _find_classes(
    tree: Tree, base: str, found: Layout, folders: set[str], parts: dict[str, Part]
) -> None:
    """Reads folders as classes, but for what cannot be one."""
    if _are_divided_inside(tree, base, folders):
        found.divided = True
        for folder in sorted(folders):
            inner, images = list_top(tree, f"{base}{folder}")
            found.classes += [
                (_part_of(name), f"{base}{folder}/{name}", folder) for name in sorted(inner)
            ]
            found.loose += [
                (Part.TRAIN, f"{base}{folder}/{name}", "it lies beside the split folders")
                for name in images
            ]
        found.note("Each class folder is divided: the folders in it are read as splits")
        return
    _refuse_companions(tree, base, folders)
    _refuse_pieces(tree, base, folders)
    _refuse_same_insides(tree, base, found, folders)
    classes = set(folders)
    for name, part in sorted(parts.items()):
        # To train or to validate on pictures without labels makes no sense.
        apart = part in (Part.TEST, Part.UNLABELED) and len(folders) - len(parts) > 1
        if not apart or list_top(tree, base + name)[0]:
            found.note(
                f"{name}/ is taken as a class, since its pictures have no class folders; rename it "
                "or move it away if it is none",
                doubtful=True,
            )
            continue
        classes.remove(name)
        reason = f"it has no label: {name}/ is read as {_say_part(part)}, not as a class"
        found.loose += [
            (part, path, reason) for path in sorted(tree.walk(base + name)) if tree.is_image(path)
        ]
        found.note(
            f"{name}/ is read as {_say_part(part)}, whose pictures have no labels, not as a class; "
            "--folders classes takes it as one",
            doubtful=True,
        )
    _add_classes(found, base, classes)


def _say_part(part: Part) -> str:
    return "the test split" if part is Part.TEST else "pictures without labels"


def _part_of(name: str) -> Part:
    return parse_part(name) or Part.TRAIN


def _add_classes(found: Layout, base: str, folders: Iterable[str]) -> None:
    found.classes += [(Part.TRAIN, base + name, name) for name in sorted(folders)]


def _add_parts(tree: Tree, base: str, found: Layout, parts: dict[str, Part]) -> None:
    """Reads folders as parts of the data, in each of which every folder is a class."""
    found.divided = {*parts.values()} != {Part.TRAIN} or any(map(parse_part, parts))
    for name, part in sorted(parts.items()):
        folder = _pass_wrappers(tree, base + name)
        classes, images = list_top(tree, folder)
        if part is not Part.UNLABELED:
            _refuse_companions(tree, f"{folder}/", classes)
            found.classes += [(part, f"{folder}/{inner}", inner) for inner in sorted(classes)]
            reason = "it lies beside the class folders"
            found.loose += [(part, f"{folder}/{image}", reason) for image in images]
            continue
        paths = sorted(path for path in tree.walk(base + name) if tree.is_image(path))
        reason = f"it has no label: {name}/ is read as {_say_part(part)}"
        found.loose += [(part, path, reason) for path in paths]


def _pass_wrappers(tree: Tree, folder: str) -> str:
    """Returns where a part's class folders are: one that only repeats its name is passed."""
    while True:
        folders, images = list_top(tree, folder)
        name = folder.rpartition("/")[2]
        if len(folders) != 1 or images:
            return folder
        (only,) = folders
        same = tokens(only) == tokens(name) or parse_part(only) is (parse_part(name) or 0)
        if not (same or {*tokens(only)} <= PLAIN_WORDS):
            return folder
        folder = f"{folder}/{only}"


def _find_others(
    tree: Tree, base: str, found: Layout, folders: set[str], parts: dict[str, Part]
) -> set[str]:
    """Returns the folders that are not named like parts; beside parts, those with images."""
    others = folders - parts.keys()
    if not any(list_top(tree, base + name)[0] for name in parts):
        return others
    passed = {
        name
        for name in others
        if _COMPANIONS & {*tokens(name)} or not _has_images(tree, base + name)
    }
    if passed and passed == others:
        shown = ", ".join(f"{name}/" for name in sorted(passed)[:SHOWN])
        found.note(f"Passed over, since they lie beside splits and hold no classes: {shown}")
    return others - passed


def _has_images(tree: Tree, folder: str) -> bool:
    return any(tree.is_image(name) for name in tree.walk(folder))


def list_top(tree: Tree, folder: str) -> tuple[set[str], list[str]]:
    """Returns the names of the folders and of the images in a folder; other files are ignored."""
    folder = folder.rstrip("/")
    folders, files = tree.top(folder)
    prefix = f"{folder}/" if folder else ""
    return folders, sorted(name for name in files if tree.is_image(prefix + name))


def is_divided(folders: Collection[str]) -> bool:
    """Whether all of some folders are named like parts of the data."""
    return bool(folders) and len(find_parts(folders)) == len(folders)


def descend(tree: Tree, is_table: Callable[[str], bool]) -> str:
    """Returns the path, with a `/` at its end, of the folder that holds the data.

    Programs pack a folder with its name: one that is alone and holds folders or a table is only
    a wrapper.
    """
    base = ""
    while True:
        folders, files = tree.top(base.rstrip("/"))
        if len(folders) != 1 or any(is_image_name(name) or is_table(name) for name in files):
            return base
        (only,) = folders
        inner, beside = tree.top(base + only)
        if parse_part(only) or not (inner or any(map(is_table, beside))):
            return base
        base += f"{only}/"


def has_classes(tree: Tree, base: str = "") -> bool:
    """Whether a tree has class folders at all; one folder of images does not make classes."""
    folders, _ = tree.top(base.rstrip("/"))
    if is_divided(folders):
        return any(tree.top(_pass_wrappers(tree, base + name))[0] for name in folders)
    return len(folders) > 1


def _are_divided_inside(tree: Tree, base: str, folders: set[str]) -> bool:
    """Whether each folder is a class that is divided into splits itself."""
    inner = [list_top(tree, base + name)[0] for name in folders]
    parts = [{parse_part(name) for name in names} for names in inner]
    return (
        len(folders) > 1
        and all(names and None not in found for names, found in zip(inner, parts, strict=True))
        and len(set[Part | None]().union(*parts)) > 1
    )


def _check_parts(root: str, parts: dict[str, Part]) -> None:
    for part in Split:
        same = sorted(name for name, kind in parts.items() if kind.as_split is part)
        if len(same) > 1:
            raise DatasetError(
                f"{root} has more than one {part} folder: {', '.join(same)}; keep one of them, or "
                f"say {_OPTION}, {_PARTS_OPTION}"
            )


def _check_mixture(tree: Tree, base: str, parts: dict[str, Part], others: set[str]) -> None:
    """Refuses parts beside other folders.

    `train` with folders in it is one, and so is what has folders of the same names as those
    beside it. A class may be called like a part.
    """
    sure = {
        name: inner
        for name, part in parts.items()
        if (inner := list_top(tree, base + name)[0]) and (part is Part.TRAIN or inner & others)
    }
    if sure:
        raise DatasetError(
            f"{tree.root} holds the split {' and '.join(sorted(sure))} beside other folders "
            f"({', '.join(sorted(others)[:SHOWN])}); keep either splits or classes in it, or say "
            f"{_OPTION}, {_PARTS_OPTION}"
        )


def _refuse_same_insides(tree: Tree, base: str, found: Layout, folders: set[str]) -> None:
    """Refuses folders that hold folders of the same names: those may be the classes."""
    inner, images = dict[str, set[str]](), 0
    for name in folders:
        if _has_images(tree, base + name):
            inner[name], beside = list_top(tree, base + name)
            images += bool(beside)
    counts = Counter(name for names in inner.values() for name in names)
    shared = [name for name, count in counts.items() if count > 1]
    if images or not all(inner.values()) or len(shared) < max(2, len(counts) / 2):
        return
    pieces = any(
        _PIECES & {*tokens(name)} or all(map(str.isdigit, tokens(name))) for name in folders
    )
    if not pieces and all(word.isdigit() for name in shared for word in tokens(name)):
        # Numbered folders within a class are as common as classes that are called 0, 1, 2.
        found.note(
            f"{_list(folders)} are taken as the classes, though they hold the same folders "
            f"({_list(shared)}); {_PARTS_OPTION}",
            doubtful=True,
        )
        return
    _refuse(tree, base, inner, f"hold the same folders ({_list(shared)}), which may be the classes")


def _refuse_pieces(tree: Tree, base: str, folders: set[str]) -> None:
    """Refuses folders such as `part_1` and `part_2`, which differ by a number alone."""
    split = [tokens(name) for name in folders]
    words = {tuple(word for word in name if not word.isdigit()) for name in split}
    numbered = all(any(word.isdigit() for word in name) for name in split)
    if len(folders) < 2 or not numbered or len(words) > 1 or not _PIECES & {*words.pop()}:
        return
    _refuse(tree, base, folders, "differ by a number alone, like parts of one data set")


def _refuse_companions(tree: Tree, base: str, folders: set[str]) -> None:
    """Refuses a folder of pictures with folders of masks or labels that go with it."""
    words = {name: {*tokens(name)} for name in folders}
    pictures = [name for name, own in words.items() if own & _PICTURES and not own & _COMPANIONS]
    others = [name for name, own in words.items() if own & _COMPANIONS]
    if not pictures or not others or len(pictures) + len(others) < len(folders):
        return
    where = f"{tree.root.rstrip('/')}/{base}{sorted(pictures)[0]}"
    raise DatasetError(
        f"{tree.root.rstrip('/')}/{base} holds {_list(folders)}: pictures and what belongs to "
        f"them, it seems, not classes. Point at the folder that holds the class folders, such as "
        f"{where}, or say {_OPTION}"
    )


def _refuse(tree: Tree, base: str, folders: Collection[str], why: str) -> None:
    where = f"{tree.root.rstrip('/')}/{base}".rstrip("/")
    raise DatasetError(
        f"{where} can be read in two ways: its folders ({_list(folders)}) {why}. Name parts of the "
        f"data train, validation and test; or say {_OPTION}, {_PARTS_OPTION}; or point at a table "
        "of paths and labels"
    )


def _list(names: Collection[str] | Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
