"""Temporary files of processes that are gone, or that nobody knows."""

import re
import subprocess
import sys

from topwork.core import leftovers

_MARK = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9]+)-([0-9]+)-$")


def mark_of(name):
    """The host, boot, process and start that a name says, without what follows."""
    return _MARK.search(name).groups()


def change(name, host=None, boot=None, pid=None, start=None):
    """A name as another process would have made it."""
    parts = [new or old for new, old in zip((host, boot, pid, start), mark_of(name), strict=True)]
    return _MARK.sub("-".join(map(str, parts)) + "-", name)


def of_dead(name):
    """A name as an earlier process with this one's number would have made it."""
    return change(name, start=int(mark_of(name)[3]) + 1)


def beside(name, ending=".tmp", how=of_dead):
    return f"{how(leftovers.name_beside(name))}abcd_123{ending}"


def scratch(purpose="", how=of_dead):
    start = f"topwork-{purpose}-" if purpose else "topwork-"
    return how(f"{start}{leftovers._make_mark()}-") + "abcd_123"


def of_unknown(name):
    return change(name, host="0" * 8)


def of_alive(name):
    return name


def fill(folder, size=1000):
    """Makes a folder with so many bytes below it."""
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(bytes(size // 2))
    (folder / "deep" / "b").write_bytes(bytes(size - size // 2))
    return folder


def begin(code, *args, **options):
    """Runs code in a process until it has printed a line; returns it and the line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True, **options
    )
    return process, process.stdout.readline().rstrip("\n")


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()
