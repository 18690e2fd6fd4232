"""How much may be on its way at once: a place for each image, and the bytes of all bodies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topwork.serve.http_errors import busy
from topwork.serve.limits import Limits


class Admission:
    """The places and bytes of all requests that are being received or answered.

    It belongs to the event loop's thread.

    Args:
        limits: how many there are.

    Attributes:
        places: how many are taken.
        held: how many bytes are.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places = 0
        self.held = 0

    @contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Gives a request a place for its first image, and takes everything back at its end.

        Raises:
            Refusal: there is no place.
        """
        ticket = Ticket(self)
        try:
            ticket.take_places(1)
            yield ticket
        finally:
            self.places -= ticket.places
            self.held -= ticket.held


class Ticket:
    """What one request has taken."""

    def __init__(self, admission: Admission) -> None:
        self.places = 0
        self.held = 0
        self._admission = admission

    def take_places(self, count: int) -> None:
        """Takes places, one an image.

        Raises:
            Refusal: there are not as many.
        """
        whole = self._admission
        if whole.places + count > whole.limits.queue:
            raise busy(
                f"the queue holds at most {whole.limits.queue} images and {whole.places} are in it"
            )
        whole.places += count
        self.places += count

    def take_bytes(self, count: int) -> None:
        """Takes bytes of a body.

        Raises:
            Refusal: there are not as many.
        """
        whole = self._admission
        if whole.held + count > whole.limits.held_bytes:
            raise busy(f"requests on their way may hold {whole.limits.held_bytes:,} bytes together")
        whole.held += count
        self.held += count
