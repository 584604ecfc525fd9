"""Records in a real fleet: a relay in the site without core, its death, and a long absence.

Method: four machines in two sites, one of them core; ends of records are forgotten after seconds.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.processes import wait_until

pytestmark = pytest.mark.real
KEPT_S = 3
DEADLINE_S = 60
soon = functools.partial(wait_until, deadline_s=DEADLINE_S)


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningFleet]:
    """Return four machines: m1 and m3 in the core's site, m2 and m4 in the other."""
    options = ("--cores", "1", "--up=--limit", f"--up=tombstones_kept_s={KEPT_S}")
    with running_fleet(4, 2, *options) as started:
        yield started


def code(text: str) -> str:
    """Return a worker that answers with a text."""
    return f"export default {{ fetch() {{ return new Response({text!r}) }} }}"


def sources(fleet: RunningFleet) -> dict[str, str]:
    """Return from whom each machine takes its records, as status shows it."""
    found: list[dict[str, Any]] = fleet.status()["machines"]
    return {machine["name"]: machine.get("source", "") for machine in found}


def relay_and_follower(fleet: RunningFleet) -> tuple[FleetMachine, FleetMachine]:
    """Wait until one machine of the other site relays and the other follows it; return both."""
    pair = {"m2", "m4"}

    def followers() -> list[str]:
        return [name for name, source in sources(fleet).items() if {name, source} == pair]

    soon(lambda: len(followers()) == 1, "one of m2, m4 follows the other")
    (follower,) = followers()
    return fleet[(pair - {follower}).pop()], fleet[follower]


def said(machine: FleetMachine) -> set[str]:
    """Return the events that a machine has logged."""
    lines = machine.state.with_name(f"{machine.name}.log").read_text(errors="replace").splitlines()
    return {json.loads(line)["event"] for line in lines if line.startswith("{")}


def test_a_relay_dies_and_its_site_goes_on(fleet: RunningFleet) -> None:
    """What is deployed while it is gone arrives all the same, and it is relay again when it is
    back."""
    relay, follower = relay_and_follower(fleet)
    fleet.upload("first", code("one"))
    fleet.wait_for("first", "one", deadline_s=DEADLINE_S)
    fleet.kill(relay.name)
    fleet.upload("first", code("two"))
    fleet.wait_for("first", "two", among=[follower], deadline_s=DEADLINE_S)
    soon(lambda: sources(fleet)[follower.name] == "core", "it follows the log")
    fleet.revive(relay.name)
    assert relay_and_follower(fleet) == (relay, follower)
    fleet.upload("first", code("three"))
    fleet.wait_for("first", "three", deadline_s=DEADLINE_S)


def test_a_machine_that_was_away_too_long_forgets_what_ended_meanwhile(
    fleet: RunningFleet,
) -> None:
    """A worker is deleted and its end forgotten while a follower is down: it comes back by a
    snapshot, and does not serve what is no more."""
    relay, follower = relay_and_follower(fleet)
    fleet.upload("gone", code("not gone"))
    fleet.wait_for("gone", "not gone", deadline_s=DEADLINE_S)
    fleet.kill(follower.name)
    first = fleet.machines[0]
    assert first.call("DELETE", "/workers/scripts/gone").status_code == 200
    soon(lambda: "tombstones_removed" in said(first), "the ends are removed")
    fleet.upload("later", code("later"))
    fleet.revive(follower.name)
    fleet.wait_for("later", "later", among=[follower], deadline_s=DEADLINE_S)
    soon(lambda: not follower.answers("gone", "not gone"), "it is gone")
    assert "records_snapshot_taken" in said(follower)
    assert relay_and_follower(fleet) == (relay, follower)
