"""Faults on order: what may be asked of a running fleet, and which links it concerns. Pure.

A link's end is named by a machine (m1), a site (s1: all machines there), several of them (m1,m3)
or by `all`.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from kythera.ground.relay_links import CUT, HEALTHY, OPEN, SILENT, Condition
from kythera.model.errors import SetupError

DELAY_MS_MAX = 60_000.0
ALL = "all"
LINKS = ("cut", "heal", "slow")
MACHINES = ("kill", "hang", "stop", "revive")

Pair = tuple[str, str]
"""Who speaks, who should hear it."""


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order: `do` is of LINKS or MACHINES, or `show`; `b` belongs to links alone."""

    do: str
    a: str = ""
    b: str = ""
    one_way: bool = False
    silent: bool = False
    delay_ms: float = 0.0
    loss: float = 0.0


def parse_delay_ms(text: str) -> float:
    """Return milliseconds of `300ms` or `1.5s`. Raises SetupError for anything else."""
    for unit, factor in (("ms", 1.0), ("s", 1000.0)):
        number = text.strip().removesuffix(unit)
        if text.strip().endswith(unit) and number.replace(".", "", 1).isascii():
            try:
                delay_ms = float(number) * factor
            except ValueError:
                break
            if 0 <= delay_ms <= DELAY_MS_MAX:
                return delay_ms
            break
    raise SetupError(
        f"{text!r} is not a delay between 0ms and {DELAY_MS_MAX / 1000:.0f}s.",
        remedy="Write it as 300ms or 1.5s.",
    )


def named(word: str, sites: Mapping[str, str]) -> list[str]:
    """Return the machines that a word means; `sites` is machine -> site. Raises SetupError."""
    if word == ALL:
        return list(sites)
    if "," in word:
        return [name for each in word.split(",") for name in named(each, sites)]
    found = [name for name, site in sites.items() if word in (name, site)]
    if not found:
        raise SetupError(
            f"there is no machine or site {word!r} in this fleet.",
            remedy=f"Machines: {', '.join(sites)}. Sites: {', '.join(sorted(set(sites.values())))}.",
        )
    return found


def pairs(order: Order, sites: Mapping[str, str]) -> list[Pair]:
    """Return the directions that an order changes. Raises SetupError when there is none."""
    if order.do == "heal" and not order.a:
        return [(a, b) for a in sites for b in sites if a != b]
    found = {(a, b) for a in named(order.a, sites) for b in named(order.b or ALL, sites) if a != b}
    if not order.one_way:
        found |= {(b, a) for a, b in found}
    if not found:
        raise SetupError(
            f"there is no link between {order.a} and {order.b}.",
            remedy="Name two machines, or two sites.",
        )
    return sorted(found)


def condition_after(order: Order, before: Condition) -> Condition:
    """Return how a direction is after an order; a cut link keeps its delay."""
    if order.do == "heal":
        return HEALTHY
    if order.do == "slow":
        return msgspec.structs.replace(before, delay_ms=order.delay_ms, loss=order.loss)
    assert order.do == "cut", order.do
    # A connection that passes one way only is no thing TCP knows: it stands, and nobody answers.
    state = SILENT if order.silent or order.one_way else CUT
    return msgspec.structs.replace(before, state=state)


def condition_text(condition: Condition) -> str:
    """Return a direction's condition in words."""
    words = [] if condition.state == OPEN else [condition.state]
    if condition.delay_ms:
        words.append(f"late by {condition.delay_ms:g} ms")
    if condition.loss:
        words.append(f"loses {condition.loss:.0%}")
    return ", ".join(words) or "healthy"


def links_text(links: Sequence[Mapping[str, object]]) -> str:
    """Return the links that are not healthy, one on a line."""
    if not links:
        return "All links are healthy."
    return "\n".join(f"  {each['from']} → {each['to']}: {each['is']}" for each in links)
