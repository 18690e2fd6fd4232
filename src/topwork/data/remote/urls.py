"""URLs as text: their parts, their identity, and how messages show them without secrets."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from topwork.core.errors import printable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
# Names of parameters of a query that may hold secrets.
_SECRET = re.compile(
    r"x-(amz|goog|ms|oss)-|sig|token|key|secret|pass|pwd|auth|cred|policy|session|jwt|sas|code",
    re.IGNORECASE,
)
# A longer value may be a secret under any name.
_LONGEST_PLAIN = 24
# Parameters of signed URLs, which change each time: the one that identifies the scheme, and all
# that belong to it. Source: AWS signature versions 4 and 2 and CloudFront, Google's V4, Azure's
# SAS.
_SIGNATURES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("x-amz-signature", re.compile("x-amz-.*")),
    ("x-goog-signature", re.compile("x-goog-.*")),
    ("signature", re.compile("signature|expires|awsaccesskeyid|googleaccessid|key-pair-id|policy")),
    ("sig", re.compile("sig|s[a-z]|spr|sip|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd")),
)
# Characters of a URL that are not quoted: a signed URL must not change.
_KEPT = "%/:=&?~#+!$,;'@()*[]"


def is_url(text: str) -> bool:
    r"""Tells `s3://bucket/a.jpg` or `https://host/a.jpg` from a path, such as `C:\a.jpg`."""
    return _URL.match(text) is not None


def scheme(url: str) -> str:
    """Returns `s3`, `https` and so on, in small letters."""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether it is http or https, where a URL is quoted and may have a query."""
    return scheme(url) in {"http", "https"}


def quoted(url: str) -> str:
    """Quotes what may not stand in a web address, such as blanks, and nothing else."""
    return quote(url.strip().partition("#")[0], safe=_KEPT)


def join(folder: str, name: str) -> str:
    """Returns the URL of a file within a folder, by the name that a listing gave it."""
    if not is_web(folder):
        return f"{folder.rstrip('/')}/{name}"
    head, mark, query = folder.partition("#")[0].partition("?")
    return f"{head.rstrip('/')}/{quote(name)}{mark}{query}"


def names_below(folder: str, links: list[str]) -> tuple[list[str], list[str]]:
    """Returns the names of files and of folders directly in a web folder that a page links to.

    Links to elsewhere, to the folder itself, or with a query, such as those that sort the page by
    another column, are ignored. A file in a folder further below is returned with its path.

    Args:
        folder: the address of the page, ending in `/`.
        links: as they stand in it.
    """
    base = urlsplit(folder)
    root = unquote(base.path)
    files: set[str] = set()
    folders: set[str] = set()
    for link in links:
        try:
            target = urlsplit(urljoin(folder, link.strip()))
        except ValueError:
            continue
        path = unquote(target.path)
        if target.hostname != base.hostname or target.port != base.port or target.query:
            continue
        # A name in a folder cannot contain a slash, as an escaped one would mean.
        if not path.startswith(root) or "%2f" in target.path.lower():
            continue
        name = path[len(root) :]
        parts = name.rstrip("/").split("/")
        if any(part in {"", ".", ".."} for part in parts):
            continue
        (folders if name.endswith("/") else files).add(name.rstrip("/"))
    return sorted(files), sorted(folders)


def show(url: str) -> str:
    """Returns a URL for messages: without user, password, and a query that may hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return printable(url.partition("?")[0].rpartition("@")[2])
    query = f"?{parts.query}" if parts.query else ""
    if not is_web(url) and parts.fragment:
        query += f"#{parts.fragment}"
    if any(_is_secret(pair) for pair in parts.query.split("&")):
        query = "?..."
    return printable(urlunsplit((parts.scheme, host, parts.path, "", "")) + query)


def show_text(text: object) -> str:
    """Returns another program's message with its URLs as `show` names them, on one line."""
    return printable(_IN_TEXT.sub(lambda match: show(match[0]), str(text)))[:300]


def identity(url: str) -> str:
    """Returns a name for the file behind a URL, hex, the same whoever asks and however signed.

    Parameters that choose the file are part of what is hashed; a hash reveals no secrets.
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return _hash(url)
    host = parts.netloc.rpartition("@")[2]
    if not is_web(url):
        # Names of objects may hold `?` and `#`, and are told apart by capitals.
        authority, slash, name = url.strip().partition("://")[2].partition("/")
        return _hash(f"{scheme(url)}://{authority.rpartition('@')[2]}{slash}{name}")
    pairs = parts.query.split("&") if parts.query else []
    names = {pair.partition("=")[0].lower() for pair in pairs}
    for sign, signed in _SIGNATURES:
        if sign in names:
            pairs = [p for p in pairs if not signed.fullmatch(p.partition("=")[0].lower())]
            break
    return _hash(urlunsplit((parts.scheme.lower(), host.lower(), parts.path, "&".join(pairs), "")))


def _is_secret(pair: str) -> bool:
    name, _, value = pair.partition("=")
    return _SECRET.search(name) is not None or max(len(name), len(value)) > _LONGEST_PLAIN


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:40]
