"""Asks HAProxy what it has refused and who is slow, and ends what has to be ended.

Decisions are `kythera.route.refusals` and `kythera.route.slow`. A process that does not answer is
left out until it does: what it counted stays counted.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.route.refusals import (
    SHOW_FAR,
    SHOW_FRONTENDS,
    SHOW_REFUSED,
    SHOW_VIOLATIONS,
    Reading,
    Refusals,
    failed_answers,
    parse_heads,
    parse_refused,
    parse_violations,
)
from kythera.route.runtime import SHOW_SERVERS, FrontSilent, parse_servers
from kythera.route.slow import SHOW_SESSIONS, Slow, parse_session, suspicious

TRIES_MAX = 3
"""How often counters that belong together are asked for until none moves meanwhile."""
Ask = Callable[[str], Awaitable[str]]
"""Says a command to one process of HAProxy and returns the answer. Raises FrontSilent."""


@dataclass
class DoorWatch:
    """What the door refuses and ends, over all processes of HAProxy."""

    limits: Limits
    refusals: Refusals = field(default_factory=Refusals)
    _readings: dict[int, Reading] = field(default_factory=dict)
    _slow: dict[int, Slow] = field(default_factory=dict)

    async def count(self, asks: Mapping[int, Ask], owner: Callable[[str], Name | None]) -> None:
        """Read the counters of these processes, all that there are."""
        self._readings = {pid: r for pid, r in self._readings.items() if pid in asks}
        for pid, ask in asks.items():
            with suppress(FrontSilent):
                self._readings[pid] = await _read(ask)
        self.refusals.take(self._readings, owner)

    async def end_slow(self, asks: Mapping[int, Ask], now: float) -> dict[str, int]:
        """Look at requests under way; return how many were ended, by reason."""
        self._slow = {pid: self._slow.get(pid, Slow(self.limits)) for pid in asks}
        ended: dict[str, int] = {}
        for pid, ask in asks.items():
            with suppress(FrontSilent):
                for why in await self._end(self._slow[pid], ask, now):
                    ended[why] = ended.get(why, 0) + 1
        for why, count in ended.items():
            self.refusals.add(why, count)
        return ended

    async def _end(self, slow: Slow, ask: Ask, now: float) -> list[str]:
        ended = []
        for pointer in slow.to_ask(suspicious(await ask(SHOW_SESSIONS))):
            session = parse_session(await ask(f"show sess {pointer}"))
            why = slow.verdict(pointer, session, now) if session is not None else ""
            if why:
                # At once: a pointer may soon be another request's.
                await ask(f"shutdown session {pointer}")
                ended.append(why)
        return ended


async def _read(ask: Ask) -> Reading:
    heads, before, violations = parse_heads(await ask(SHOW_FRONTENDS)), -1, 0
    for _ in range(TRIES_MAX):
        if heads == before:
            break
        before = heads
        violations = parse_violations(await ask(SHOW_VIOLATIONS))
        heads = parse_heads(await ask(SHOW_FRONTENDS))
    answers = failed_answers(parse_servers(await ask(SHOW_SERVERS)))
    tables = "\n".join([await ask(command) for command in (SHOW_REFUSED, *SHOW_FAR)])
    return Reading(parse_refused(tables), heads, violations, answers)
