"""Which cells get one request at a time: whose process was ended lately, for a while.

Pure. A process that is ended takes all requests with it that were inside. HAProxy asks again what
may be repeated, all at once, and they meet in the next process: with the one among them that loops.
It would take the same others with it until nobody tries any more. One at a time it is alone.

Promises: a cell is told so before its process is ended; it is told otherwise when none of its
processes was ended for SOLO_S, also while one loops that may do so for longer: nobody waits for it.
"""

SOLO_S = 2.0
ONE, ALL = 1, 1_000_000
"""How many requests HAProxy gives to a cell at the same time. Its own word for no limit is 0, but
told that it forgets those who wait already."""


class Solo:
    """The cells that get one request at a time, by HAProxy's name. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, server: str, now: float) -> bool:
        """A process of this cell is being ended; return whether HAProxy has to be told."""
        known = server in self._until
        self._until[server] = now + SOLO_S
        return not known

    def over(self, now: float) -> list[str]:
        """Return the cells that may have all their requests again, and forget them."""
        calm = [server for server, until in self._until.items() if now >= until]
        for server in calm:
            del self._until[server]
        return calm
