"""Options of an address that nobody knows: a misspelt threshold must not be no threshold."""

from __future__ import annotations

import difflib

from fastapi import Request

from topwork.serve.http_errors import HTTPError


async def check_options(request: Request) -> None:
    """Refuses a request whose address has an option that its route does not know, or one twice.

    Raises:
        HTTPError: with the nearest name, or all.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise HTTPError(
                422, f"{name[:100]!r} is no option of {request.url.path}; {_hint(name, known)}"
            )
    twice = [name for name in known if given.count(name) > 1]
    if twice:
        raise HTTPError(422, f"{twice[0]}: must be given once, received {given.count(twice[0])}")


def _hint(name: str, known: list[str]) -> str:
    """Says what may have been meant, however it is written: `topK`, `abstain-below`."""
    plain = {_bare(option): option for option in known}
    near = difflib.get_close_matches(_bare(name[:100]), [*plain], n=1, cutoff=0.5)
    near = near or [option for option in plain if option in _bare(name) or _bare(name) in option]
    if near:
        return f"did you mean {plain[near[0]]}?"
    return f"there are {', '.join(known)}"


def _bare(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
