"""What the front door has refused, by reason: HAProxy's counters, read and summed.

Pure. Counters live in each process of HAProxy and end with it; totals here never fall. Most reasons
are rows of the table `refused` (`kythera.route.admission`). Three are not, for HAProxy counts them
in sums alone: heads that cannot be read, heads that never became whole (too slow, or the client
left), and answers of workers that cannot be read (a head larger than HAProxy's buffers). Each look at the counters tells them apart
as well as can be; only what falls between the same two looks may be taken for each other.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kythera.model.catalog import Name
from kythera.route.admission import NO, OF_DATA, REFUSALS, REFUSED
from kythera.route.plan import AWAY, HOME
from kythera.route.runtime import ServerRow

NOBODY = 999_999_999
"""A number no section has: HAProxy then tells of its violations nothing but how many there were."""
DOOR = "door"
SHOW_REFUSED = f"show table {REFUSED}"
SHOW_FAR = (f"show table {HOME}", f"show table {AWAY}")
"""Queues of workers that other machines serve; there are no such tables on a machine alone."""
SHOW_FRONTENDS = "show stat -1 1 -1"
SHOW_VIOLATIONS = f"show errors {NOBODY}"
QUEUE, BAD_HEAD, HEAD_NOT_SENT = "queue", "head_not_understood", "head_not_sent"
ANSWER = "answer_not_understood"
SLOW_BODY, SLOW_READER, LONG_BODY = "slow_body", "slow_reader", "body_too_large"
ROWS = (*REFUSALS, *OF_DATA)
"""Reasons that have a row in the table."""
REASONS = (*ROWS, QUEUE, BAD_HEAD, HEAD_NOT_SENT, ANSWER, SLOW_BODY, SLOW_READER)
_ROW = re.compile(r"key=(\S+) .*?(?:conn_cnt|gpc0)=(\d+)")
_VIOLATIONS = re.compile(r"^Total events captured on .* : (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """One process's counters."""

    table: Mapping[str, int]
    """How often was refused: by backend, and by `account/worker` on the way to other machines."""
    heads: int
    """Heads that were not understood, or never became whole."""
    violations: int
    """Heads of requests and of answers that were not understood."""
    answers: Mapping[str, int]
    """By cell: answers that did not come, less those with which it hung up. Among them are all that
    were not understood."""


def parse_refused(text: str) -> dict[str, int]:
    """Read the tables that count refusals; of a key that is in several, the sum."""
    found: dict[str, int] = {}
    for match in _ROW.finditer(text):
        found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found


def parse_heads(text: str) -> int:
    """Read the door's row of `show stat`: request errors."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        return 0
    columns = lines[0][2:].split(",")
    rows = (dict(zip(columns, line.split(","), strict=False)) for line in lines[1:])
    return sum(int(row.get("ereq") or 0) for row in rows if row.get("pxname") == DOOR)


def parse_violations(text: str) -> int:
    """Read the first line of `show errors`; nothing was captured when there is none."""
    match = _VIOLATIONS.search(text)
    return int(match[1]) if match else 0


def failed_answers(rows: Iterable[ServerRow]) -> dict[str, int]:
    """Return by cell what `Reading.answers` holds."""
    return {row.server: max(0, row.failed_answers - row.hung_up) for row in rows}


class Refusals:
    """Totals by reason, and by worker for full queues."""

    def __init__(self) -> None:
        self._tables, self._sums, self._answers = Growth(), Growth(), Growth()
        self._total = dict.fromkeys(REASONS, 0)
        self.queues: dict[Name, int] = {}
        """Requests refused because of a worker's queue."""

    def totals(self) -> dict[str, int]:
        """Return each reason with how often it held, as far as HAProxy's processes know."""
        return dict(self._total)

    def add(self, reason: str, count: int = 1) -> None:
        """Count what was ended by us and not by HAProxy."""
        self._total[reason] += count

    def take(self, readings: Mapping[int, Reading], owner: Callable[[str], Name | None]) -> None:
        """Take the counters of all processes that live now; `owner` tells whose slot it is."""
        for key, new in self._tables.take({p: r.table for p, r in readings.items()}).items():
            reason = key.removeprefix(NO)
            if reason in ROWS:
                self._total[reason] += new
                continue
            self._total[QUEUE] += new
            account, _, worker = key.partition("/")
            name = (account, worker) if worker else owner(key)
            if new and name is not None:
                self.queues[name] = self.queues.get(name, 0) + new
        self._take_sums(readings)

    def _take_sums(self, readings: Mapping[int, Reading]) -> None:
        new = self._sums.take(
            {p: {"heads": r.heads, "violations": r.violations} for p, r in readings.items()}
        )
        failed = sum(self._answers.take({p: r.answers for p, r in readings.items()}).values())
        heads, violations = new.get("heads", 0), new.get("violations", 0)
        # On a connection that was used before HAProxy hangs up, and counts no failed answer.
        answers = min(max(failed, violations - heads), violations)
        self._total[ANSWER] += answers
        self._total[BAD_HEAD] += violations - answers
        self._total[HEAD_NOT_SENT] += max(0, heads - (violations - answers))


class Growth:
    """By how much counters have grown since the last look, over processes that come and go."""

    def __init__(self) -> None:
        self._last: dict[int, Mapping[str, int]] = {}

    def take(self, now: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
        """Take what all processes count now; a process that was not there began at nought."""
        grown: dict[str, int] = {}
        for pid, counters in now.items():
            before = self._last.get(pid, {})
            for key, count in counters.items():
                grown[key] = grown.get(key, 0) + max(0, count - before.get(key, 0))
        self._last = dict(now)
        return grown
