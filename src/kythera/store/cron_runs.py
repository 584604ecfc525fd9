"""Which cron triggers are to be called now, and by whom: records in, calls out.

Pure; time is an argument, in Unix seconds, the same on all machines. One machine's turn comes first
(rendezvous hashing over those that take visitors), the next one's `cron_take_over_s` later, and so on:
nobody has to know who lives. Whoever calls writes that down first, over what was there, so that of two
machines one finds the record changed.
Promises: each time that is due is begun once; what was begun and not ended is begun again when its
machine's control process has started anew, or when it cannot be under way any more. Times missed while
nothing ran: the latest one is made up for, if it is younger than `cron_catch_up_s`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from kythera.ground.clock import iso
from kythera.model.limits import Limits
from kythera.model.records import CronCall, CronEnd, CronRuns, Machine
from kythera.store.cron import parse

ENDS_KEPT = 5
LOST = "lost"
"""The outcome of a call whose machine died each time."""
GRACE_S = 60
"""Beyond `event_wall_ms`: for the start of a cell, and for writing down the end."""


def cron_id(cron: str) -> str:
    """Return what stands for an expression in a record's key."""
    return hashlib.sha256(cron.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Caller:
    """Who asks what is due: one life of one machine's control process."""

    machine: str
    life: str
    limits: Limits


def turn(caller: str, machines: Iterable[Machine], about: str) -> int:
    """Return a machine's place in the order in which machines may make a call: 0 is first. One that
    hands its visitors to others, or is in no record while others are, comes after all of them."""
    able = [m.name for m in machines if m.state == "active"] or [caller]
    order = sorted(able, key=lambda name: hashlib.sha256(f"{name} {about}".encode()).digest())
    return order.index(caller) if caller in order else len(order)


def due(runs: CronRuns, created: float, place: int, caller: Caller, now: float) -> CronCall | None:
    """Return the call that this machine shall begin now, or None."""
    again = _abandoned(runs, place, caller, now)
    if again is not None:
        return _call(again.slot, caller, now, again.tries + 1)
    since = max(runs.slot, created, now - caller.limits.cron_catch_up_s)
    slot = parse(runs.cron).latest(now, since)
    if slot is None or now < slot + place * caller.limits.cron_take_over_s:
        return None
    return _call(slot, caller, now, 1)


def _call(slot: int, caller: Caller, now: float, tries: int) -> CronCall:
    until = int(now) + caller.limits.event_wall_ms // 1000 + GRACE_S
    return CronCall(slot=slot, machine=caller.machine, life=caller.life, until=until, tries=tries)


def _abandoned(runs: CronRuns, place: int, caller: Caller, now: float) -> CronCall | None:
    for call in runs.calls:
        mine = call.machine == caller.machine
        over = now >= call.until + place * caller.limits.cron_take_over_s
        if (mine and call.life != caller.life) or over:
            return call
    return None


def begun(runs: CronRuns, call: CronCall, limits: Limits, now: float) -> tuple[CronRuns, bool]:
    """Return the record with a call begun, and whether to make it: one that was lost so often with
    its machine is given up."""
    others = tuple(each for each in runs.calls if each.slot != call.slot)
    if call.tries > limits.event_tries_max:
        kept = msgspec.structs.replace(runs, calls=others)
        lost = CronEnd(
            slot=call.slot, machine=call.machine, ended_on=iso(now), took_ms=0, outcome=LOST
        )
        return _told(kept, lost), False
    slot = max(runs.slot, call.slot)
    return msgspec.structs.replace(runs, slot=slot, calls=(*others, call)), True


def ended(runs: CronRuns, call: CronCall, end: CronEnd) -> CronRuns:
    """Return the record with a call ended."""
    others = tuple(each for each in runs.calls if (each.slot, each.life) != (call.slot, call.life))
    return _told(msgspec.structs.replace(runs, calls=others), end)


def _told(runs: CronRuns, end: CronEnd) -> CronRuns:
    return msgspec.structs.replace(
        runs,
        last=(end, *runs.last)[:ENDS_KEPT],
        runs=runs.runs + 1,
        failed=runs.failed + (end.outcome != "ok"),
    )
