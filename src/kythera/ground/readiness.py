"""Many descriptors watched by one epoll: the kernel says which idle socket has a visitor.

One-shot: a descriptor that was reported is silent until it is armed again, so that a connection
that nobody has accepted yet does not spin the loop. A thousand idle cells cost one descriptor
and one task.
"""

import select
from collections.abc import AsyncIterator
from typing import Self

import anyio

EVENTS_PER_WAKE_MAX = 256


class Readiness:
    """Says once, for each armed descriptor, that it can be read (or accepted from)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._names: dict[int, str] = {}

    def __enter__(self) -> Self:
        """Use as a context manager: closing it frees the kernel's list."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching everything."""
        self.close()

    def close(self) -> None:
        """Stop watching everything."""
        self._epoll.close()

    def arm(self, name: str, descriptor: int) -> None:
        """Report `name` once when the descriptor becomes (or already is) readable."""
        events = select.EPOLLIN | select.EPOLLONESHOT
        if descriptor in self._names:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._names[descriptor] = name

    def disarm(self, descriptor: int) -> None:
        """Be silent about a descriptor; harmless when it is not armed."""
        if self._names.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def names(self) -> AsyncIterator[str]:
        """Yield names as their descriptors become readable, for ever."""
        while True:
            await anyio.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0, EVENTS_PER_WAKE_MAX):
                name = self._names.get(descriptor)
                if name is not None:
                    yield name
