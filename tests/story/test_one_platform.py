"""Three machines, one platform: whichever is asked gives the same answers, sees the same requests,
and tells of all, also while one of them hangs.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.processes import wait_until

pytestmark = [pytest.mark.real, pytest.mark.story]
CODE = 'export default { fetch(r) { console.log("at", r.url); return new Response("%s") } }'
ROUNDS = 10
EVENT_S = 1.0
FIRST_READ_S_MAX = 12.0
"""It may hang the log's leader: the first read then waits for the next one, `read_your_writes_ms`."""
READ_S_MAX = 4.0
"""Far below one full wait for the log, on a machine that does much else."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningFleet]:
    """Return three machines in two sites."""
    with running_fleet(3, 2) as started:
        yield started


def result(machine: FleetMachine, method: str, path: str, **more: Any) -> Any:
    """Call the API and return its result."""
    answer = machine.call(method, path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def states(machine: FleetMachine) -> dict[str, str]:
    """Return how a machine sees all."""
    return {each["name"]: each["state"] for each in machine.status()["machines"]}


def names(fleet: RunningFleet) -> list[str]:
    """Return the names of the machines."""
    return sorted(machine.name for machine in fleet.machines)


@contextmanager
def watching(made_by: FleetMachine, connected_to: FleetMachine) -> Iterator[ClientConnection]:
    """Make a tail on one machine and connect to it on another."""
    made = result(made_by, "POST", "/workers/scripts/seen/tails", json={"filters": []})
    host = connected_to.api.removeprefix("http://").partition("/")[0]
    url = f"ws://{host}/tails/{made['id']}"
    with connect(url, subprotocols=[Subprotocol("trace-v1")], proxy=None) as socket:
        yield socket


def hosts_seen(socket: ClientConnection, fleet: RunningFleet, wanted: set[str]) -> set[str]:
    """Send requests to all machines until the watcher has seen each; return whom it saw."""
    seen: set[str] = set()

    def look() -> bool:
        for machine in fleet.machines:
            machine.get("seen", f"/from-{machine.name}")
        try:
            while True:
                event = json.loads(socket.recv(timeout=EVENT_S))
                url = (event["event"] or {}).get("request", {}).get("url", "")
                seen.add(url.rpartition("/from-")[2])
        except TimeoutError:
            return wanted <= seen

    wait_until(look, f"the watcher sees {wanted}", deadline_s=30)
    return seen


def test_a_token_is_revoked_on_every_machine_and_all_tell_who_did_what(
    fleet: RunningFleet,
) -> None:
    """Made on one machine, used on another, revoked on a third: refused at once by all; the audit is
    the same everywhere."""
    first, second, third = fleet.machines
    made = result(first, "POST", "/tokens", json={"name": "ci", "scopes": ["read"]})
    mine = {"headers": {"Authorization": f"Bearer {made['value']}"}}
    for machine in fleet.machines:
        result(machine, "GET", "/workers/scripts", **mine)
    result(second, "DELETE", "/tokens/ci")
    for machine in (third, first, second):
        answer = machine.call("GET", "/workers/scripts", **mine)
        assert answer.status_code == 403, machine.name
        assert "was revoked" in answer.text
    told = [result(machine, "GET", "/audit_logs") for machine in fleet.machines]
    assert told[0] == told[1] == told[2]
    revoked, created = told[0][:2]
    assert (revoked["action"]["type"], created["action"]["type"]) == (
        "revoke API token",
        "make API token",
    )
    assert revoked["metadata"]["machine"] == second.name


def test_every_machine_tells_of_all(fleet: RunningFleet) -> None:
    """Sites, lag, versions, cells: from any of them."""
    fleet.upload("shown", CODE % "shown")
    fleet.wait_for("shown", "shown")
    for machine in fleet.machines:
        document = machine.status()
        assert [each["name"] for each in document["machines"]] == names(fleet)
        assert {each["state"] for each in document["machines"]} == {"active"}
        assert {each["site"] for each in document["machines"]} == {"s1", "s2"}
        assert all(each["lag_ms"] is not None for each in document["machines"])
        assert {cell["machine"] for cell in document["cells"]} == set(names(fleet))


def test_what_one_machine_acknowledged_the_next_call_shows_anywhere(fleet: RunningFleet) -> None:
    """Upload here, list there, deploy from a third; again and again, without a pause."""
    for number in range(ROUNDS):
        first, second, third = (fleet.machines[(number + n) % 3] for n in range(3))
        worker = f"round-{number}"
        first.upload(worker, CODE % "one")
        assert worker in {each["id"] for each in result(second, "GET", "/workers/scripts")}
        versions = result(third, "GET", f"/workers/scripts/{worker}/versions")["items"]
        split = [{"version_id": versions[0]["id"], "percentage": 100}]
        result(
            third,
            "POST",
            f"/workers/scripts/{worker}/deployments",
            json={"strategy": "percentage", "versions": split},
        )
        found = result(first, "GET", f"/workers/scripts/{worker}/deployments")["deployments"]
        assert len(found) == 2
        result(second, "DELETE", f"/workers/services/{worker}")
        assert first.call("GET", f"/workers/services/{worker}").status_code == 404


def test_a_tail_shows_what_all_machines_serve(fleet: RunningFleet) -> None:
    """Made on one machine, watched on another."""
    fleet.upload("seen", CODE % "seen")
    fleet.wait_for("seen", "seen")
    with watching(fleet.machines[0], fleet.machines[1]) as socket:
        assert hosts_seen(socket, fleet, set(names(fleet))) >= set(names(fleet))
        assert result(fleet.machines[2], "GET", "/workers/scripts/seen/tails")

    def gone() -> bool:
        return not result(fleet.machines[2], "GET", "/workers/scripts/seen/tails")

    wait_until(gone, "the tail has ended with its watcher", deadline_s=10)


def test_a_machine_that_hangs_is_named_and_holds_nobody_up(fleet: RunningFleet) -> None:
    """Reads and the status go on; when it goes on, it is as if nothing had been."""
    asked, hung = fleet.machines[0], fleet.machines[1]
    fleet.hang(hung.name)
    try:
        wait_until(lambda: states(asked)[hung.name] == "unreachable", "it is shown", deadline_s=15)
        document = asked.status()
        silent = next(each for each in document["machines"] if each["name"] == hung.name)
        assert f"machine {hung.name!r}" in silent["why"]
        assert silent["unreachable_since"] is not None
        assert silent["kythera"]
        for limit_s in (FIRST_READ_S_MAX, READ_S_MAX, READ_S_MAX):
            began = time.monotonic()
            result(asked, "GET", "/workers/scripts")
            assert time.monotonic() - began < limit_s
    finally:
        fleet.revive(hung.name)
    wait_until(
        lambda: set(states(hung).values()) == {"active"}, "it is one of them again", deadline_s=30
    )
