"""Machines in the API: listed, drained, labelled, removed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kythera.control.store import put
from kythera.model.records import Core, Machine, Token
from tests.control.fleets import Machines, machines
from tests.control.mesh_doors import write
from tests.control.world import ACCOUNT

pytestmark = pytest.mark.anyio
API = f"/client/v4/accounts/{ACCOUNT}/kythera/machines"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return a fleet of three; `a` is core."""
    async with machines(tmp_path) as made:
        yield made


async def test_every_machine_lists_the_same_machines(fleet: Machines) -> None:
    """Goal: one computer. Method: ask each, leave out which is asked."""
    told: list[Any] = []
    for name in "abc":
        listed = await fleet[name].ok("GET", API)
        assert [each["name"] for each in listed if each.pop("here")] == [name]
        told.append(listed)
    assert told[0] == told[1] == told[2]
    assert [(each["name"], each["core"]) for each in told[0]] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    assert "token" not in told[0][0]


async def test_a_machine_is_drained_and_serves_again(fleet: Machines) -> None:
    """Goal: from any machine. Method: drain `c` through `b`, look through `a`, undo."""
    await fleet["b"].ok("PATCH", f"{API}/c", {"state": "draining"})
    assert (await fleet["a"].ok("GET", f"{API}/c"))["state"] == "draining"
    await fleet["a"].ok("PATCH", f"{API}/c", {"state": "active"})
    assert (await fleet["b"].ok("GET", f"{API}/c"))["state"] == "active"


async def test_a_change_that_changes_nothing_writes_nothing(fleet: Machines) -> None:
    """Goal: no empty records. Method: drain twice."""
    await fleet["a"].ok("PATCH", f"{API}/c", {"state": "draining"})
    before = fleet["a"].stored()
    await fleet["a"].ok("PATCH", f"{API}/c", {"state": "draining"})
    assert fleet["a"].stored() == before


async def test_labels_are_given_and_taken_away(fleet: Machines) -> None:
    """Goal: labels are the operator's. Method: set two, replace one, remove one."""
    await fleet["a"].ok("PATCH", f"{API}/b", {"labels": {"disk": "ssd", "rack": "1"}})
    shown = await fleet["a"].ok("PATCH", f"{API}/b", {"labels": {"disk": "nvme", "rack": None}})
    assert shown["labels"] == {"disk": "nvme"}


@pytest.mark.parametrize(
    "body",
    [
        {"state": "gone"},
        {"state": 1},
        {"name": "x"},
        {"labels": []},
        {"labels": {"": "x"}},
        {"labels": {"a b": "x"}},
        {"labels": {"k": 1}},
        {"labels": {"k": "x" * 256}},
        {"labels": {"k": "a\nb"}},
        {"labels": {f"k{n}": "x" for n in range(65)}},
    ],
)
async def test_a_change_without_sense_is_refused(fleet: Machines, body: Any) -> None:
    """Goal: records stay readable. Method: each kind of wrong change."""
    status, _, _ = await fleet["a"].refused("PATCH", f"{API}/b", body)
    assert status == 400


async def test_an_unknown_machine_is_said(fleet: Machines) -> None:
    """Goal: a mistyped name is seen. Method: every method on it."""
    for method in ("GET", "PATCH", "DELETE"):
        status, _, message = await fleet["a"].refused(method, f"{API}/z", {})
        assert status == 404
        assert "kythera machine list" in message


async def test_a_core_machine_is_never_removed(fleet: Machines) -> None:
    """Goal: the log is not lost by a word. Method: remove `a`, also with force."""
    for query in ("", "?force=true"):
        status, _, message = await fleet["b"].refused("DELETE", f"{API}/a{query}")
        assert status == 409
        assert "promote" in message


async def test_the_machine_that_is_asked_is_removed_only_with_force(fleet: Machines) -> None:
    """Goal: nobody saws off their branch unseen. Method: remove `b` through `b`."""
    status, _, message = await fleet["b"].refused("DELETE", f"{API}/b")
    assert status == 409
    assert "--force" in message
    await fleet["b"].ok("DELETE", f"{API}/b?force=true")
    assert fleet["a"].catalog.machine("b") is None


async def test_removing_a_machine_takes_its_token_along(fleet: Machines) -> None:
    """Goal: it cannot come back by itself. Method: a machine that joined with a token."""
    token = Token(id="t1", secret_digest="", created_on="", expires_on="", used_by="d")
    await write(fleet["a"], put(token), put(Machine(name="d", token="t1")))
    await fleet["a"].ok("DELETE", f"{API}/d")
    assert "token.t1" not in fleet["a"].catalog.records


async def test_a_machine_that_was_core_may_go(fleet: Machines) -> None:
    """Goal: demote first, then remove. Method: the log moves from `a` to `b`."""
    await write(fleet["b"], put(Core(machines=("b",), epoch=2)))
    await fleet["b"].ok("DELETE", f"{API}/a")
    assert fleet["b"].catalog.machine("a") is None
