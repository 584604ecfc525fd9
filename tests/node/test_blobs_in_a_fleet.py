"""Blobs in a real fleet: copies before the answer, fetched where needed, never run when tampered.

Method: three machines with their own processes, one of them core; files on their disks are looked
at, removed and changed by hand.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kythera.distribute.blobs import Blobs
from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.processes import wait_until

pytestmark = pytest.mark.real
EVIL = "export default { fetch() { return new Response('tampered') } }"


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningFleet]:
    """Return three machines; the first holds the log."""
    with running_fleet(3, 1, "--cores", "1") as started:
        yield started


def code_of(text: str) -> str:
    """Return a worker that answers with a text."""
    return f"export default {{ fetch() {{ return new Response({text!r}) }} }}"


def holders(fleet: RunningFleet, code: str) -> list[str]:
    """Return the machines that have a module's blob on their disk."""
    digest = hashlib.sha256(code.encode()).hexdigest()
    return [one.name for one in fleet.machines if Blobs(one.state / "blobs").has(digest)]


def version(machine: FleetMachine, worker: str, code: str) -> str:
    """Upload a version that serves nobody; return its id."""
    document = {"main_module": "w.js", "compatibility_date": "2026-01-01"}
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": ("w.js", code, "application/javascript+module"),
    }
    answer = machine.call("POST", f"/workers/scripts/{worker}/versions", files=files)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["result"]["id"]
    return found


def deploy(machine: FleetMachine, worker: str, version_id: str) -> None:
    """Let a version serve everybody."""
    body = {
        "strategy": "percentage",
        "versions": [{"version_id": version_id, "percentage": 100}],
    }
    answer = machine.call("POST", f"/workers/scripts/{worker}/deployments", json=body)
    assert answer.status_code == 200, answer.text


def tamper(machine: FleetMachine, code: str, other: str) -> None:
    """Change a blob on a machine's disk behind its back."""
    path = Blobs(machine.state / "blobs").path(hashlib.sha256(code.encode()).hexdigest())
    path.chmod(0o600)
    path.write_text(other)


def test_what_is_uploaded_to_one_machine_is_on_the_core_and_runs_on_all(
    fleet: RunningFleet,
) -> None:
    """A version that serves nobody is on two machines; deployed elsewhere it serves on all."""
    core, second, third = fleet.machines
    core.upload("shop", code_of("first"))
    code = code_of("second")
    made = version(third, "shop", code)
    assert holders(fleet, code) == [core.name, third.name]
    deploy(second, "shop", made)
    fleet.wait_for("shop", "second")
    assert len(holders(fleet, code)) == 3


def test_a_site_of_many_files_uploaded_to_one_machine_is_served_whole_by_all(
    fleet: RunningFleet, tmp_path: Path
) -> None:
    """Manifest and files travel by hash; each machine lays them out with the same validators."""
    public = tmp_path / "public"
    public.mkdir()
    for number in range(60):
        (public / f"{number}.txt").write_text(f"file {number}\n")
    settings = {
        "name": "site",
        "compatibility_date": "2026-01-01",
        "assets": {"directory": "./public"},
    }
    (tmp_path / "wrangler.jsonc").write_text(json.dumps(settings))
    done = fleet.machines[2].kythera("deploy", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for machine in fleet.machines:
        machine.wait_for("site", "file 0", "/0.txt", deadline_s=20)
    for number in (0, 31, 59):
        found = [one.get("site", f"/{number}.txt") for one in fleet.machines]
        assert {answer.text for answer in found} == {f"file {number}\n"}
        assert len({answer.headers["etag"] for answer in found}) == 1


def test_tampered_code_is_never_run_and_the_good_one_is_as_soon_as_it_can_be_had(
    fleet: RunningFleet,
) -> None:
    """Both copies are changed on the disk: no machine runs them, the old version serves on."""
    core, second, third = fleet.machines
    core.upload("bank", code_of("honest"))
    fleet.wait_for("bank", "honest")
    code = code_of("newer")
    made = version(third, "bank", code)
    for machine in (core, third):
        tamper(machine, code, EVIL)
    deploy(core, "bank", made)
    wait_until(lambda: "blob_wrong" in second.log(), "the second machine sees it", deadline_s=20)
    for machine in fleet.machines:
        for _ in range(5):
            assert machine.get("bank").text == "honest"
    assert second.name not in holders(fleet, code)
    tamper(core, code, code)
    fleet.wait_for("bank", "newer", deadline_s=60)
    wait_until(
        lambda: all(
            Blobs(one.state / "blobs").read(hashlib.sha256(code.encode()).hexdigest())
            for one in fleet.machines
        ),
        "all copies are good again",
    )
    assert "tampered" not in "".join(machine.log() for machine in fleet.machines)


def test_without_the_core_an_upload_is_refused_and_what_was_there_serves(
    fleet: RunningFleet,
) -> None:
    """Refused in words; and accepted when the core is back."""
    core, second, third = fleet.machines
    second.upload("mine", code_of("before"))
    fleet.wait_for("mine", "before")
    fleet.cut(core.name, "all")
    answer = second.call(
        "PUT",
        "/workers/scripts/mine",
        files={
            "metadata": (
                None,
                json.dumps({"main_module": "w.js", "compatibility_date": "2026-01-01"}),
                "application/json",
            ),
            "w.js": ("w.js", code_of("after"), "application/javascript+module"),
        },
    )
    assert answer.status_code == 503, answer.text
    assert third.answers("mine", "before")
    fleet.heal()
    wait_until(lambda: _uploaded(second), "the core takes it again", deadline_s=30)
    fleet.wait_for("mine", "after", deadline_s=20)


def _uploaded(machine: FleetMachine) -> bool:
    try:
        machine.upload("mine", code_of("after"))
    except AssertionError:
        return False
    return True
