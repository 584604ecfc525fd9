"""How far back the log remembers: below the horizon, ends of records (tombstones) are gone.

Pure. What follows from it: who has applied something, but less than the horizon, may have missed
that a record ended, and nothing in the log would tell him any more. He takes a snapshot. Who has
nothing yet misses nothing: what has ended he never had.
"""

import msgspec

from kythera.distribute.log import Entry, LogPruned
from kythera.model.records import Horizon, UnknownSchema, decode

HORIZON_KEY = Horizon(seq=0).key()


def horizon_of(value: bytes | None) -> int:
    """Return the sequence a Horizon record names; 0 where there is none that can be read."""
    if value is None:
        return 0
    try:
        return decode(Horizon, value).seq
    except (UnknownSchema, msgspec.MsgspecError):
        return 0


class Sight:
    """Whether one run of following the log may have missed ends of records.

    The horizon may move, and tombstones go, while a follower that is behind reads on. So what it
    has read counts as whole only when the horizon, asked for afterwards, is still where that
    does no harm. Once abreast of the log it reads entries as they are written, long before they
    go, until its connection breaks. Who began with nothing asks once, when he has everything.
    """

    def __init__(self, after_seq: int, horizon: int, newest: int) -> None:
        """Begin after `after_seq`, with the log's horizon and newest sequence as they are now."""
        self._sure = after_seq
        self._excused = horizon if after_seq == 0 else 0
        self._empty = after_seq == 0
        self._newest = newest
        self._abreast = after_seq >= newest
        self._refuse(horizon)

    def resumed(self, horizon: int, newest: int) -> None:
        """Go on after a break, with horizon and newest as they are now. Raises LogPruned."""
        self._refuse(horizon)
        self._newest = newest
        self._abreast = self._sure >= newest

    def take(self, entries: list[Entry]) -> bool:
        """Look at the next entries; tell whether to ask for the horizon now, and `confirm`.

        Raises LogPruned when something may have been missed."""
        for entry in entries:
            if entry.key == HORIZON_KEY:
                self._refuse(horizon_of(entry.value))
        if self._abreast:
            self._sure = entries[-1].seq
            return False
        return not self._empty or entries[-1].seq >= self._newest

    def confirm(self, seq: int, horizon: int) -> None:
        """Everything up to `seq` was read before the horizon was asked for. Raises LogPruned."""
        self._refuse(horizon)
        self._sure = seq
        self._empty = False
        self._abreast = seq >= self._newest

    def _refuse(self, horizon: int) -> None:
        if horizon > max(self._sure, self._excused):
            raise LogPruned(
                f"Ends of records up to {horizon} are no longer in the log; this machine has"
                f" followed it only up to {self._sure} without a doubt.",
                remedy="It takes a snapshot by itself.",
            )
