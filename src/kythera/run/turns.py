"""When a turn of a cell's event loop has burnt more than it may: readings in, a verdict out.

Pure. The kernel tells what a process has burnt, not what for; a *pulse*, a tiny request that the
process answers between two turns, tells that no turn has lasted since it was sent. So a process
that has burnt a little is sent one, and only one whose pulse stays unanswered while it burns
`cpu_ms` is doubted. Many short requests can hold a pulse up too: workerd runs what is ready, all
of it, before it sends any answer. So each request that is under way when the doubt begins may burn
`cpu_ms`, and answers that come out meanwhile begin the doubt anew; but not for more than DOUBT_MS
in all, for requests queue up behind a loop as well, and other processes of its cell answer.

Promises: a loop whose request is alone is ended when it has burnt between `cpu_ms` and two looks
more, any other one DOUBT_MS later at most; a process that answers its pulses never is.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from kythera.model.limits import Limits
from kythera.model.records import Version

Verdict = Literal["fine", "pulse", "doubt", "over"]

PULSE_MS = 40.0
"""CPU time after which a process is asked for a sign of life; a quarter of a smaller limit."""
DOUBT_MS = 10_000.0


@dataclass(slots=True)
class _Turn:
    heard_ms: float
    """CPU clock when the loop last gave a sign of life."""
    sent_ms: float | None = None
    """CPU clock when the pulse was sent that is not answered yet."""
    answers: int | None = None
    """What its cell had answered when the doubt began."""
    allowed_ms: float = 0.0
    """What may be burnt since the pulse was sent."""


def cpu_ms_max(version: Version | None, limits: Limits) -> int:
    """Return what one turn of a version's code may burn."""
    asked = limits.cpu_ms if version is None else version.limits.get("cpu_ms", limits.cpu_ms)
    return min(asked if isinstance(asked, int) else limits.cpu_ms, limits.cpu_ms_max)


class Turns:
    """What is known of each process's present turn, by process name. CPU times in milliseconds."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def look(self, name: str, cpu_ms: float, limit_ms: float) -> Verdict:
        """Take a process's CPU clock; say whether to send a pulse, to ask for its cell's answers
        (`doubt`), or to end it."""
        turn = self._turns.setdefault(name, _Turn(cpu_ms))
        if turn.sent_ms is None:
            if cpu_ms - turn.heard_ms < min(PULSE_MS, limit_ms / 4):
                return "fine"
            turn.sent_ms, turn.answers = cpu_ms, None
            return "pulse"
        burnt = cpu_ms - turn.sent_ms
        if burnt < limit_ms:
            return "fine"
        return "doubt" if burnt < limit_ms + DOUBT_MS else "over"

    def answered(self, name: str, cpu_ms: float) -> None:
        """The pulse came back: the loop was between two turns just now."""
        self._turns[name] = _Turn(cpu_ms)

    def lost(self, name: str) -> None:
        """The pulse could not be sent, or was cut off: another one is sent instead."""
        if name in self._turns:
            self._turns[name].sent_ms = None

    def is_stuck(
        self, name: str, cpu_ms: float, limit_ms: float, *, answers: int, current: int
    ) -> bool:
        """Tell whether a doubted process is in one turn for sure, given how many requests its cell
        has answered and how many are under way there."""
        turn = self._turns.get(name)
        if turn is None or turn.sent_ms is None:
            return False
        burnt = cpu_ms - turn.sent_ms
        if turn.answers != answers:
            spared = 0.0 if turn.answers is None else burnt
            turn.answers, turn.allowed_ms = answers, spared + limit_ms * max(1, current)
        return burnt >= min(turn.allowed_ms, limit_ms + DOUBT_MS)

    def keep(self, names: Collection[str]) -> None:
        """Forget all processes but these."""
        for gone in self._turns.keys() - set(names):
            del self._turns[gone]
