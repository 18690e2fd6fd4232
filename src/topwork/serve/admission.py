"""How much may be in progress at once: a slot for each image, and the bytes of all bodies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topwork.serve.http_errors import busy
from topwork.serve.limits import Limits


class Admission:
    """Slots and bytes of all requests that are being received or answered.

    It is used in the event loop's thread only.

    Args:
        limits: how many slots and bytes there are.

    Attributes:
        slots: number of slots in use.
        held: number of bytes in use.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slots = 0
        self.held = 0

    @contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Gives a request a slot for its first image, and frees all that it took at its end.

        Raises:
            HTTPError: there is no free slot.
        """
        ticket = Ticket(self)
        try:
            ticket.take_slots(1)
            yield ticket
        finally:
            self.slots -= ticket.slots
            self.held -= ticket.held


class Ticket:
    """The slots and bytes that one request has taken."""

    def __init__(self, admission: Admission) -> None:
        self.slots = 0
        self.held = 0
        self._admission = admission

    def take_slots(self, count: int) -> None:
        """Takes one slot for each image.

        Raises:
            HTTPError: there are not enough.
        """
        admission = self._admission
        if admission.slots + count > admission.limits.queue:
            raise busy(
                f"the queue holds at most {admission.limits.queue} images and "
                f"{admission.slots} are in it"
            )
        admission.slots += count
        self.slots += count

    def take_bytes(self, count: int) -> None:
        """Takes bytes of a body.

        Raises:
            HTTPError: there are not enough.
        """
        admission = self._admission
        if admission.held + count > admission.limits.held_bytes:
            raise busy(
                f"requests on their way may hold {admission.limits.held_bytes:,} bytes together"
            )
        admission.held += count
        self.held += count
