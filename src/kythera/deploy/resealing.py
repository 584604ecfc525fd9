"""From one key for secrets to another, in an order in which nothing is ever lost. Pure.

    wanted      the new key is named; every machine fetches it; nothing is sealed with it
    active      all hold it: from here on everybody seals with it, and the old one still opens
    resealed    no record is sealed with the old key
    settled     nobody can write anything any more that stands on records from before that
    dropped     the old key is named no more, and whoever holds it drops it

Each step is one record, written over the one before; whoever drives may die between any two, and the
next one goes on from the records. A machine that does not answer holds nothing up but the last step:
it may be writing something that is sealed with the old key, so that key stays until it has answered,
or has been removed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from kythera.model.catalog import Catalog
from kythera.model.envelope import keys_used
from kythera.model.records import Resource, Sealing, Version

RETIRED_KEPT_MAX = 32
"""Keys that are remembered as having sealed once. Machines drop them within a second or when they
come back, so what matters are those of the last rotations."""

Kind = Literal["rest", "wait", "replace", "activate", "reseal", "drop"]


@dataclass(frozen=True)
class Held:
    """What one machine says of its keys; one that did not answer said nothing."""

    ids: frozenset[str] = frozenset()
    settled_seq: int = 0
    answered: bool = True
    able: bool = True
    """Whether its Kythera knows of more than one key."""
    given: bool = False


@dataclass(frozen=True)
class Step:
    """What to do next, and why not more: machines and their reasons."""

    kind: Kind
    waits_for: Mapping[str, str] = field(default_factory=dict)


def named(sealing: Sealing) -> frozenset[str]:
    """Return the ids of the keys that are still of use."""
    return frozenset({sealing.active, sealing.wanted, *sealing.retiring}) - {""}


def spare(keys: Collection[str], sealing: Sealing) -> list[str]:
    """Return those of a machine's keys that may seal next: made for an attempt that was cut short.

    One that sealed once is none, though a machine may not have dropped it yet: it was changed for a
    reason."""
    taken = named(sealing) | {*sealing.retired}
    return [key for key in keys if key not in taken]


Sealed = Version | Resource
"""What secrets are in."""


def sealed_of(catalog: Catalog) -> list[Sealed]:
    """Return all versions of all workers, deployed or not, and all resources."""
    return [record for record in catalog.records.values() if isinstance(record, Sealed)]


def sealed_otherwise(catalog: Catalog, active: str) -> list[Sealed]:
    """Return the records with a secret that another key than the active one opens."""
    return [record for record in sealed_of(catalog) if keys_used(record) - {active}]


def needed(catalog: Catalog, sealing: Sealing) -> frozenset[str]:
    """Return the ids of the keys that no machine may drop."""
    used = (keys_used(record) for record in sealed_of(catalog))
    return named(sealing).union(*used)


def next_step(
    sealing: Sealing,
    machines: Mapping[str, Held],
    *,
    me: str,
    core: Collection[str],
    wanted_for_s: float,
    absent_s: float,
    others_sealed: int,
    clean_seq: int | None,
) -> Step:
    """Return what whoever drives has to do.

    `others_sealed` counts records that are not sealed with the active key; since `clean_seq` there
    is none in the driver's own copy."""
    if sealing.wanted:
        return _introduce(sealing.wanted, machines, me, core, wanted_for_s, absent_s)
    if others_sealed:
        return Step("reseal")
    if not sealing.retiring:
        return Step("rest")
    assert clean_seq is not None, "nothing is sealed with another key since some moment"
    unsettled = {
        name: _why_unsettled(held, clean_seq)
        for name, held in machines.items()
        if not held.answered or held.settled_seq < clean_seq
    }
    return Step("wait", unsettled) if unsettled else Step("drop")


def _introduce(
    wanted: str,
    machines: Mapping[str, Held],
    me: str,
    core: Collection[str],
    wanted_for_s: float,
    absent_s: float,
) -> Step:
    """Wait until all hold the new key; or give it up when nobody has it who can be asked."""
    holders = {name for name, held in machines.items() if wanted in held.ids}
    late = wanted_for_s >= absent_s
    if late and not holders:
        return Step("replace", {me: "nobody who answers has the new key"})
    lacking = {
        name: _why_lacking(held)
        for name, held in machines.items()
        if name not in holders and (held.answered or not late)
    }
    if me not in holders:
        lacking.setdefault(me, _why_lacking(machines.get(me, Held())))
    if not lacking and 2 * len(holders & set(core)) <= len(core):
        lacking = dict.fromkeys(set(core) - holders, "is core, and lacks the new key")
    return Step("wait", lacking) if lacking else Step("activate")


def _why_lacking(held: Held) -> str:
    if not held.answered:
        return "does not answer"
    if not held.able:
        return "runs a Kythera that knows of one key alone: upgrade it"
    if held.given:
        return "has its keys from its operator, who has to add the new one to the file there"
    return "has not fetched the new key yet"


def _why_unsettled(held: Held, clean_seq: int) -> str:
    if not held.answered:
        return "does not answer: it may still hold what is sealed with the old key"
    return f"has read the records up to {held.settled_seq} of {clean_seq}"


def begun(before: Sealing, wanted: str, now: str) -> Sealing:
    """Return the record that names a new key."""
    return msgspec.structs.replace(before, wanted=wanted, wanted_on=now)


def activated(before: Sealing) -> Sealing:
    """Return the record with which everybody seals with the new key."""
    return msgspec.structs.replace(
        before,
        active=before.wanted,
        wanted="",
        wanted_on="",
        retiring=tuple(sorted({*before.retiring, before.active})),
    )


def dropped(before: Sealing) -> Sealing:
    """Return the record that names the old keys no more."""
    retired = (*before.retired, *before.retiring)[-RETIRED_KEPT_MAX:]
    return msgspec.structs.replace(before, retiring=(), retired=retired)
