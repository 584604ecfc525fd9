"""Whether R2's engine still writes: its own refusals tell.

SeaweedFS keeps names in LevelDB (several, by folder), which after one write that failed for a full disk
refuses all others until it is opened anew, though there may be room again. A probe would meet another of
them; so what counts is that writes were refused, again and again, while the disk had room. Pure.
"""

AGAIN_S = 1.0
"""Two refusals so far apart are no passing trouble,"""
FORGET_S = 600.0
"""unless so much time lies between them."""


class EngineHealth:
    """Of one engine, from its start on."""

    def __init__(self) -> None:
        self._first = self._last = float("-inf")

    def refused(self, now: float, *, room: bool) -> None:
        """Note that the engine could not write, and whether its disk had room."""
        if not room:
            return
        if now - self._last > FORGET_S:
            self._first = now
        self._last = now

    def ails(self, now: float) -> bool:
        """Tell whether the engine has to be started anew; say so once."""
        found = self._last - self._first >= AGAIN_S and now - self._last <= FORGET_S
        if found:
            self._first = self._last = float("-inf")
        return found
