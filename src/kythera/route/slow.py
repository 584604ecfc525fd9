"""Who sends a body, or reads an answer, more slowly than anybody has to: hung up on.

Pure. HAProxy's own time-outs end who does nothing at all; one byte a second satisfies them. So its
list of requests under way is looked at every few seconds. A request that is suspicious twice is
asked for in full, and judged by what has moved while it was:

- a sender, when its body is not whole, HAProxy holds none of it (so that nobody but the client is
  waited for), and its answer is not on its way (both directions at once is a conversation);
- a reader, when part of the answer has waited for it at every look;
- a body without a declared length, when more of it has come than a body may have.

Waiting is nobody's fault: a worker that thinks, an event stream that has nothing to say and a
WebSocket are never in any of these states. What HAProxy prints here is nobody's promise: what is
not understood is left alone.
"""

import re
from dataclasses import dataclass, field

from kythera.model.limits import Limits
from kythera.route.refusals import DOOR, LONG_BODY, SLOW_BODY, SLOW_READER

SHOW_SESSIONS = "show sess"
CANDIDATES_MAX = 1_000
"""How many are asked for in full at one look; the others have their turn at the next."""
REQUEST_WHOLE = 0x40000000
"""HAProxy 2.6's flag of a channel that has seen the end of its message."""
HEAD_BYTES = 64 * 1024
"""What a count of bytes may hold beside the body."""
_SESSION = re.compile(
    rf"^(0x[0-9a-f]+): .*? fe={DOOR} .*? rq\[f=([0-9a-f]+)h.*?\] rp\[.*?,wx=(\w*),", re.MULTILINE
)
_NUMBER = re.compile(r"^0x[0-9a-f]+: .*? id=(\d+) ", re.MULTILINE)
_STATES = re.compile(r"^  txn=.* req\.st=(\w+) rsp\.st=(\w+)", re.MULTILINE)
_CHANNEL = re.compile(
    r"^  (req|res)=.*? total=(\d+)\)\n.*\n +buf=.*? o=(\d+) .*? i=(\d+) ", re.MULTILINE
)


@dataclass(frozen=True)
class Session:
    """One request under way: HAProxy's number for it, its states, bytes that came and that wait."""

    number: int
    body_open: bool
    """The end of the body has not come yet."""
    answering: bool
    received: int
    held: int
    """Of these, bytes that wait for the worker."""
    answered: int
    """Bytes of the answer that the kernel took for the client."""
    waiting: int
    """Bytes of the answer that wait for the client."""


def suspicious(text: str) -> set[str]:
    """Read `show sess`: requests of visitors whose body is not whole, or whose answer waits."""
    return {
        match[1]
        for match in _SESSION.finditer(text)
        if not int(match[2], 16) & REQUEST_WHOLE or match[3]
    }


def parse_session(text: str) -> Session | None:
    """Read `show sess <id>`; None when it has ended, or is not understood."""
    number, states = _NUMBER.search(text), _STATES.search(text)
    channels = {m[1]: [int(n) for n in m.groups()[1:]] for m in _CHANNEL.finditer(text)}
    if number is None or states is None or channels.keys() != {"req", "res"}:
        return None
    received, held, held_new = channels["req"]
    answered, waiting, waiting_new = channels["res"]
    return Session(
        number=int(number[1]),
        body_open=states[1] == "MSG_DATA",
        answering=states[2] == "MSG_DATA",
        received=received,
        held=held + held_new,
        answered=answered - waiting - waiting_new,
        waiting=waiting,
    )


@dataclass
class _Pace:
    """Since when something is slow without a break, and how many bytes had moved by then."""

    since: float
    moved: int


@dataclass
class _Watch:
    """One request that is suspicious."""

    number: int
    sending: _Pace | None = None
    reading: _Pace | None = None
    ended: bool = False
    """HAProxy lets go of the worker at once, and of a reader when it has taken the rest of a buffer, or
    nothing at all for `client_idle_s`."""


@dataclass
class Slow:
    """Remembers what was seen at earlier looks; one for each process of HAProxy."""

    limits: Limits
    _suspected: set[str] = field(default_factory=set)
    _watches: dict[str, _Watch] = field(default_factory=dict)
    _looks: int = 0

    def to_ask(self, now_suspicious: set[str]) -> list[str]:
        """Return which to ask for in full: those that were suspicious at the last look too."""
        twice = sorted(now_suspicious & self._suspected)
        self._suspected = now_suspicious
        self._watches = {p: w for p, w in self._watches.items() if p in now_suspicious}
        self._looks += 1
        if len(twice) <= CANDIDATES_MAX:
            return twice
        begin = self._looks * CANDIDATES_MAX % len(twice)
        return (twice[begin:] + twice[:begin])[:CANDIDATES_MAX]

    def verdict(self, pointer: str, session: Session, now: float) -> str:
        """Return why to end this request, once, or nothing."""
        watch = self._watches.get(pointer)
        if watch is None or watch.number != session.number:
            watch = self._watches[pointer] = _Watch(session.number)
        why = "" if watch.ended else self._judge(watch, session, now)
        watch.ended = watch.ended or bool(why)
        return why

    def _judge(self, watch: _Watch, session: Session, now: float) -> str:
        limits = self.limits
        if session.body_open and session.received > limits.request_body_bytes_max + HEAD_BYTES:
            return LONG_BODY
        sends = session.body_open and not session.answering and not session.held
        watch.sending = _going_on(watch.sending, sends, session.received, now)
        watch.reading = _going_on(watch.reading, session.waiting > 0, session.answered, now)
        if _too_slow(
            watch.sending, session.received, now, limits.slow_body_s, limits.body_bytes_per_s_min
        ):
            return SLOW_BODY
        least, window_s = limits.answer_bytes_per_s_min, limits.slow_reader_s
        if _too_slow(watch.reading, session.answered, now, window_s, least):
            return SLOW_READER
        return ""


def _going_on(pace: _Pace | None, goes_on: bool, moved: int, now: float) -> _Pace | None:
    if not goes_on:
        return None
    return pace or _Pace(now, moved)


def _too_slow(pace: _Pace | None, moved: int, now: float, window_s: float, least: int) -> bool:
    """Judge one window; a new one begins where it ends well."""
    if pace is None or now - pace.since < window_s:
        return False
    slow = (moved - pace.moved) / (now - pace.since) < least
    pace.since, pace.moved = now, moved
    return slow
