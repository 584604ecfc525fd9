"""How long the tails of other machines have not been renewed, by this machine's own clock.

A tail's expiry is written by the clock of the machine whose watcher it is, which may be hours off.
So other machines do not look at the time in it: what counts is how long its record has not changed.

Pure: time is an argument (monotonic seconds).
"""

from collections.abc import Mapping


class TailAges:
    """When each tail's record was first seen as it is now."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def note(self, seqs: Mapping[str, int], now: float) -> None:
        """Take what there is now: sequence numbers by key."""
        self._seen = {
            key: self._seen[key] if self._seen.get(key, (0, 0.0))[0] == seq else (seq, now)
            for key, seq in seqs.items()
        }

    def unchanged(self, for_s: float, now: float) -> dict[str, int]:
        """Return the tails that have not been renewed for so long, with their sequence numbers."""
        return {key: seq for key, (seq, since) in self._seen.items() if now - since >= for_s}
