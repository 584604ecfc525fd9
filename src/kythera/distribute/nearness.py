"""Which machines to ask first: the nearest, and among equals a different one for each thing asked.

Pure. A draining machine comes last whatever its place: it has enough to do with leaving. Among
machines of one class the order is that of a rendezvous hash, so that load spreads over them, all
who ask for one thing agree on whom to ask first, and a machine more or less moves little.
"""

import hashlib
from collections.abc import Collection, Iterable
from enum import IntEnum

from kythera.model.records import Machine

SITE_ASKED_FIRST = 3
"""So many of a site are asked before the core is: in a large one most do not have it."""


class Near(IntEnum):
    """How near a machine is: smaller is nearer."""

    SITE = 0
    REGION = 1
    WORLD = 2
    REST = 3


def near(machine: Machine, me: Machine) -> Near:
    """Return how near `machine` is to `me`.

    A site is a site only within one region and world: two flats may both be called `home`. An empty
    region or world is a name like any other."""
    if machine.world != me.world:
        return Near.REST
    if machine.region != me.region:
        return Near.WORLD
    return Near.SITE if machine.site == me.site else Near.REGION


def rank(key: str, name: str) -> bytes:
    """Return the rendezvous hash of a thing and a machine: the machine with the smallest is first."""
    return hashlib.sha256(f"{key}\0{name}".encode()).digest()


def nearest(machines: Iterable[Machine], me: Machine, key: str = "") -> list[Machine]:
    """Return the others, nearest first, those that drain last.

    `key` is what is asked for (a blob's digest, say): machines that are equally near are asked in
    another order for each. Without one the order is another for each `me`."""
    spread = key or me.name

    def order(machine: Machine) -> tuple[bool, Near, bytes]:
        return machine.state == "draining", near(machine, me), rank(spread, machine.name)

    return sorted((machine for machine in machines if machine.name != me.name), key=order)


def likely_holders(
    machines: Iterable[Machine], me: Machine, digest: str, cores: Collection[str]
) -> list[Machine]:
    """Return the others in the order in which to ask for a blob: a few of this site (the same few
    for all who are here), the core machines, which have every blob, and then everybody else."""
    ordered = nearest(machines, me, digest)
    here = [machine for machine in ordered if near(machine, me) is Near.SITE]
    core = [machine for machine in ordered if machine.name in cores]
    found = {machine.name: machine for machine in (*here[:SITE_ASKED_FIRST], *core, *ordered)}
    return list(found.values())
