"""The command about the store: what lies in it, and its maintenance."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import Json, Store, print_json
from topwork.core.errors import SettingsError, counted, printable
from topwork.core.leftovers import Owner, find_in_store, find_scratch, sweep
from topwork.vectors.backends import find_elsewhere, find_store

if TYPE_CHECKING:
    from rich.console import Console

    from topwork.core.leftovers import Temporary
    from topwork.vectors.maintenance import StoreItem

# Whose temporary files are whose.
_OWNERS = {
    Owner.ALIVE: "runs at work",
    Owner.DEAD: "left by killed runs",
    Owner.UNKNOWN: "of unknown runs",
}
_UNITS_S = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


Compact = Annotated[bool, typer.Option("--compact", help="Make large parts of many small ones.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read all vectors; damaged parts are set aside.")
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Remove what is of --base, or --older-than, or both.")
]
BaseName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Vectors of this network, and what was built of it."),
]
OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Not written to for so long, such as 12h, 30d or 8w."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


@app.command("store")
def show_store(
    compact: Compact = False,
    verify: Verify = False,
    prune: Prune = False,
    base: BaseName = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show what the store holds; check it, tidy it, or remove some of it."""
    from topwork.recipes.console import make_console
    from topwork.vectors import maintenance

    _check(compact, verify, prune, base, older_than, yes)
    root = find_store(store)
    swept = sweep(root)
    console = make_console(stderr=as_json)
    done: dict[str, Any] = {}
    damaged = False
    if compact:
        fewer = maintenance.compact_all(root)
        done["parts_fewer"] = fewer
        console.print(f"Made large parts of small ones: {counted(fewer, 'part')} fewer")
    if verify:
        checked = maintenance.verify(root)
        damaged = bool(checked.damaged)
        done["verified"] = {"parts": checked.parts, "damaged": checked.damaged}
        _say_checked(console, checked)
    if prune:
        older_than_s = None if older_than is None else _read_age(older_than)
        entries = maintenance.list_items(root)
        chosen = maintenance.select_items(entries, base, older_than_s)
        freed = 0
        if chosen and (yes or _ask(console, chosen)):
            freed = maintenance.prune(root, chosen)
        done["freed_bytes"] = freed
        if freed:
            console.print(f"Freed {_say_bytes(freed)}")
        else:
            console.print("Nothing was removed" if chosen else _say_none(entries, base, older_than))
    entries = maintenance.list_items(root)
    if as_json:
        print_json({**_describe(root, entries), "swept_bytes": swept, **done})
    elif not done:
        _show(console, root, entries)
        if swept:
            console.print(f"Removed {_say_bytes(swept)} that killed runs had left")
    if damaged:
        raise typer.Exit(1)


def _check(
    compact: bool, verify: bool, prune: bool, base: str | None, older_than: str | None, yes: bool
) -> None:
    if prune and base is None and older_than is None:
        raise SettingsError("prune: needs --base NAME or --older-than AGE, or both")
    if not prune and (base is not None or older_than is not None or yes):
        raise SettingsError("base, older-than and yes say what to remove, and need --prune")
    if older_than is not None:
        _read_age(older_than)
    if sum((compact, verify, prune)) > 1:
        raise SettingsError("compact, verify and prune: received several, run one after the other")


def _read_age(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([hdw])", text)
    if not found:
        raise SettingsError(
            f"older-than: must be a number of hours, days or weeks, such as 12h, 30d or 8w, "
            f"received {text!r}"
        )
    return float(found[1]) * _UNITS_S[found[2]]


def _ask(console: Console, chosen: Sequence[StoreItem]) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("prune: nobody can be asked here; say --yes to remove without asking")
    total = sum(entry.bytes for entry in chosen)
    for entry in chosen:
        console.print(f"  {entry.kind}/{entry.name}  {_say_bytes(entry.bytes)}")
    return typer.confirm(f"Remove these, {_say_bytes(total)}?", err=console.stderr)


def _say_none(entries: Sequence[StoreItem], base: str | None, older_than: str | None) -> str:
    """Says why there is nothing to remove, and what there is."""
    what = [f"of {printable(base)}"] if base else []
    what += [f"not written to for {older_than}"] if older_than else []
    bases = sorted({entry.base for entry in entries if entry.base})
    there = f"it has {', '.join(map(printable, bases))}" if bases else "it has no networks"
    return f"Nothing was removed: the store has nothing {', '.join(what)}; {there}"


def _say_checked(console: Console, checked: Any) -> None:
    found = counted(len(checked.damaged), "damaged one")
    console.print(f"Read {counted(checked.parts, 'part')}: {found}")
    for address in checked.damaged:
        console.print(f"  set aside as {address}", soft_wrap=True)
    if checked.damaged:
        console.print("The next run computes their vectors again")
    if checked.before:
        console.print(f"{counted(len(checked.before), 'part')} set aside earlier can be deleted")


def _describe(root: Path, entries: Sequence[StoreItem]) -> dict[str, Any]:
    from dataclasses import asdict

    from topwork.vectors.maintenance import KINDS

    in_store, scratch = [*find_in_store(root)], [*find_scratch()]
    spaces = [entry for entry in entries if entry.space]
    return {
        "store": str(root),
        "elsewhere": find_elsewhere(root),
        "vectors": [
            {
                **asdict(entry.space),
                "name": entry.name,
                "vectors": entry.vectors,
                "parts": entry.parts,
                "bytes": entry.bytes,
                "used_s": entry.used_s,
            }
            for entry in spaces
            if entry.space
        ],
        "rest": {
            kind: sum(entry.bytes for entry in entries if entry.kind == kind) for kind in KINDS
        },
        "temporary": [
            {
                "path": str(found.path),
                "in_store": files is in_store,
                "owner": str(found.owner),
                "bytes": found.bytes,
                "changed_s": found.changed_s,
            }
            for files in (in_store, scratch)
            for found in files
        ],
        "bytes": _add_up(entries, in_store),
    }


def _show(console: Console, root: Path, entries: Sequence[StoreItem]) -> None:
    from rich.table import Table
    from rich.text import Text

    from topwork.data.remote.urls import show
    from topwork.vectors.maintenance import KINDS

    in_store, scratch = [*find_in_store(root)], [*find_scratch()]
    console.print(Text(printable(root)), style="bold", soft_wrap=True)
    if url := find_elsewhere(root):
        console.print(Text(f"vectors in {show(url)}"), style="bold", soft_wrap=True)
    spaces = [entry for entry in entries if entry.kind == "vectors"]
    if spaces:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        table.add_column("vectors of", overflow="ellipsis", no_wrap=True, max_width=24)
        table.add_column("px", justify="right")
        for name in ("precision", "view"):
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=13)
        for name in ("vectors", "MB"):
            table.add_column(name, justify="right")
        table.add_column("last written", no_wrap=True)
        for entry in spaces:
            space = entry.space
            facts = (str(space.image_size), space.precision, space.view) if space else ("?",) * 3
            table.add_row(
                Text(printable(entry.base or entry.name)),
                *map(Text, facts),
                f"{entry.vectors:,}",
                f"{entry.bytes / 1e6:,.1f}",
                _say_age(entry.used_s),
            )
        console.print(table)
    for kind, name in KINDS.items():
        sizes = [entry.bytes for entry in entries if entry.kind == kind]
        if sizes:
            _show_size(console, name, sum(sizes))
    _show_temporary(console, in_store)
    if entries or in_store:
        _show_size(console, "total", _add_up(entries, in_store))
    else:
        console.print("It is empty")
    if scratch:
        console.print(Text(printable(scratch[0].path.parent)), style="bold", soft_wrap=True)
        _show_temporary(console, scratch)
    if any(each.owner is Owner.UNKNOWN for each in (*in_store, *scratch)):
        console.print("What is of unknown runs is removed when it is a day old.", style="dim")


def _add_up(entries: Sequence[StoreItem], temporary: Sequence[Temporary]) -> int:
    return sum(each.bytes for each in entries) + sum(each.bytes for each in temporary)


def _show_temporary(console: Console, found: Sequence[Temporary]) -> None:
    for owner, name in _OWNERS.items():
        sizes = [each.bytes for each in found if each.owner is owner]
        if sizes:
            _show_size(console, name, sum(sizes))


def _show_size(console: Console, name: str, count: int) -> None:
    console.print(f" {name:<22}{_say_bytes(count):>10}")


def _say_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _say_age(at_s: float) -> str:
    """Says how long ago something was, in words."""
    age_s = time.time() - at_s
    for unit_s, name in ((86_400 * 30, "month"), (86_400, "day"), (3600, "hour"), (60, "minute")):
        if age_s >= unit_s:
            return f"{counted(int(age_s // unit_s), name)} ago"
    return "just now"
