"""What HAProxy tells of the ways to other machines, read and summed.

Pure. Counters live in each process of HAProxy and end with it; `Forwarding` keeps what was seen
last, so that totals never fall.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kythera.model.catalog import Name
from kythera.route.loads import Tally
from kythera.route.mesh_render import HERE, is_stream
from kythera.route.plan import AWAY, HOME
from kythera.route.runtime import ServerRow

SHOW_RECEIVED = f"show table {HERE}"
SHOW_HOMED = f"show table {HOME}"
_ROW = re.compile(r"key=(\S+) .*?(?:http_req_cnt|http_req_rate\(\d+\))=(\d+)")
_SESSION = re.compile(r"^(0x[0-9a-f]+): .*? be=(\S+) ", re.MULTILINE)
UP, LEAVING, DOWN = "up", "leaving", "down"


@dataclass(frozen=True)
class PeerTraffic:
    """One other machine, as this front door sees it; `sent` and `received` are totals."""

    state: str
    """`up`; `leaving`: it asked for nothing new; `down`."""
    current: int
    sent: int
    received: int


@dataclass(frozen=True)
class Reading:
    """One process's counters: servers, and requests received by peer."""

    rows: tuple[ServerRow, ...]
    received: Mapping[str, int]


def parse_table(text: str) -> dict[str, int]:
    """Read the answer to `show table`: key to its one counter."""
    return {match[1]: int(match[2]) for match in _ROW.finditer(text)}


def streams_among(text: str, *more: str) -> list[str]:
    """Read the answer to `show sess`: the sessions that are streams between machines, or are in one
    of `more` backends."""
    found = _SESSION.finditer(text)
    return [match[1] for match in found if is_stream(match[2]) or match[2] in more]


def parse_homed(text: str) -> dict[Name, int]:
    """Read the answer to SHOW_HOMED: worker to requests of the last `rare_window_s`."""
    found = {}
    for key, count in parse_table(text).items():
        account, _, worker = key.partition("/")
        found[account, worker] = count
    return found


class Forwarding:
    """What was sent to each peer and received from it, over all processes."""

    def __init__(self) -> None:
        self._sent = Tally()
        self._received = Tally()

    def count(self, readings: Mapping[int, Reading], newest: int) -> dict[str, PeerTraffic]:
        """Take the counters of all processes that live now; `newest` knows who is able."""
        sent = self._sent.count({pid: _to_peers(r.rows) for pid, r in readings.items()})
        received = self._received.count(
            {
                pid: [ServerRow(HERE, name, 0, count) for name, count in r.received.items()]
                for pid, r in readings.items()
            }
        )
        return {
            name: PeerTraffic(
                state=state,
                current=sent[name].current if name in sent else 0,
                sent=sent[name].requests if name in sent else 0,
                received=received[name].requests if name in received else 0,
            )
            for name, state in sorted(_states(readings[newest].rows).items())
        }


def _to_peers(rows: Iterable[ServerRow]) -> list[ServerRow]:
    """Return one row for each server that requests were sent to, over both ways."""
    found: dict[str, ServerRow] = {}
    for row in rows:
        if row.slot in (HOME, AWAY):
            before = found.get(row.server, ServerRow(row.slot, row.server, 0, 0))
            found[row.server] = ServerRow(
                row.slot, row.server, before.current + row.current, before.total + row.total
            )
    return list(found.values())


def down_peers(rows: Iterable[ServerRow]) -> set[str]:
    """Return who does not answer."""
    return {name for name, state in _states(rows).items() if state == DOWN}


def _states(rows: Iterable[ServerRow]) -> dict[str, str]:
    """Return the state of every peer; our own server is not checked, and left out."""
    return {
        row.server: _state(row.status)
        for row in rows
        if row.slot == AWAY and row.status != "no check"
    }


def _state(status: str) -> str:
    """Translate HAProxy's word, which may go on (`UP 1/2`, `NOLB 1/2`)."""
    word = status.partition(" ")[0]
    return {"UP": UP, "NOLB": LEAVING}.get(word, DOWN)
