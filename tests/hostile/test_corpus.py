"""Every hostile worker of the corpus is contained as its file says, and a quiet one beside it does
not notice.

Method: one real platform; each worker is uploaded, asked in its own way, asked whether it is calm
again, and deleted. A visitor asks the quiet worker all the while.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from kythera.run.egress import COUNTERS
from tests.hostile.attack import attacked, cells
from tests.hostile.corpus import Entry, complaints, corpus
from tests.hostile.quiet import Quiet, asked_steadily
from tests.platforms import RunningPlatform, running
from tests.processes import birth, command, family, wait_until

pytestmark = pytest.mark.real

AWAITED: dict[str, str] = {}
"""What cannot hold yet, and why. Empty: all is built."""
LIMITS = ("drain_ms=1500", "settle_ms=100")
QUIET_MS_MAX = 5_000.0
"""The quiet worker's slowest answer, on a machine that is busy with other tests too."""
GONE_S_MAX = 30.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform whose cells end soon when nobody wants them any more."""
    words = [word for limit in LIMITS for word in ("--limit", limit)]
    with running(tmp_path_factory.mktemp("hostile") / "state", *words) as started:
        yield started


@pytest.fixture(scope="module")
def quiet(platform: RunningPlatform) -> Iterator[Quiet]:
    """Return what the quiet worker's visitor has seen so far."""
    with asked_steadily(platform) as seen:
        yield seen


def entries() -> list[Any]:
    """Return the corpus as parameters; what is awaited may fail."""
    found = []
    for entry in corpus():
        why = AWAITED.get(entry.name)
        marks = [pytest.mark.xfail(reason=why, strict=False)] if why else []
        found.append(pytest.param(entry, id=entry.name, marks=marks))
    return found


def chosen() -> list[Any]:
    """Return every third one, which takes minutes less; `CORPUS=all make test` takes all."""
    return entries() if os.environ.get("CORPUS") == "all" else entries()[::3]


@pytest.mark.parametrize("entry", chosen())
def test_a_hostile_worker_is_contained_and_a_quiet_one_does_not_notice(
    platform: RunningPlatform, quiet: Quiet, entry: Entry
) -> None:
    """As its file says; all requests to the quiet worker succeed meanwhile."""
    served, troubles = quiet.served, len(quiet.troubles)
    try:
        seen = attacked(platform, entry)
    finally:
        platform.call("DELETE", f"/workers/scripts/{entry.worker}")
    found = complaints(entry, seen)
    assert not found, f"{entry.name} tries {entry.tries}: {'; '.join(found)}"
    assert quiet.troubles[troubles:] == []
    wait_until(lambda: quiet.served > served, "the quiet worker answers")


def test_nothing_is_left_of_any_of_them_and_the_quiet_worker_never_failed(
    platform: RunningPlatform, quiet: Quiet
) -> None:
    """No cell, no process, no zombie; each request to the quiet worker was answered, and soon."""
    wait_until(
        lambda: {cell["worker"] for cell in cells(platform)} == {"quiet"},
        "the cells of what was deleted are gone",
        deadline_s=GONE_S_MAX,
    )
    wait_until(lambda: not strangers(platform), "processes that nobody knows have ended")
    assert quiet.troubles == []
    assert quiet.served > 0
    assert quiet.slowest_ms < QUIET_MS_MAX


def strangers(platform: RunningPlatform) -> list[int]:
    """Return workerd's processes that no cell knows, and zombies; the egress cell is nobody's."""
    known = {pid for cell in cells(platform) for pid in cell["pids"]}
    inside = {child for pid in known for child in family(pid)}
    below = family(platform.process.pid) - known - inside
    shells = {pid for pid in below if known & family(pid)}  # bubblewrap, around those we know
    egress = {pid for pid in below if f" {COUNTERS}=" in command(pid)}
    others = below - shells - egress
    return [pid for pid in others if "workerd" in command(pid) or birth(pid) is None]
