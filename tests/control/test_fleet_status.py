"""The status of the whole fleet, asked of any machine, whatever the others do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from kythera.control.peers_status import STATUS_BYTES_MAX
from kythera.control.store import end, put
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Machine
from tests.control.fleets import Machines, machines
from tests.control.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return three machines in two sites."""
    async with machines(tmp_path) as made:
        yield made


def by_name(document: Any) -> dict[str, dict[str, Any]]:
    """Return the machines of a status."""
    return {machine["name"]: machine for machine in document["machines"]}


async def test_every_machine_tells_of_all(fleet: Machines) -> None:
    """Sites and core come from the records, the rest from each machine itself."""
    for member in fleet.all.values():
        document = await member.status()
        told = by_name(document)
        assert {name: each["site"] for name, each in told.items()} == {
            "a": "one",
            "b": "one",
            "c": "two",
        }
        assert [each["core"] for each in document["machines"]] == [True, False, False]
        assert {each["state"] for each in document["machines"]} == {"active"}
        assert {each["lag_ms"] for each in document["machines"]} == {7}
        assert [cell["machine"] for cell in document["cells"]] == ["a", "b", "c"]
        assert {cell["worker"] for cell in document["cells"]} == {"hello"}


async def test_a_machine_that_is_cut_off_is_shown_as_it_was_and_since_when(
    fleet: Machines,
) -> None:
    """The last known facts stay; the moment of the first silence does not move."""
    a = fleet["a"]
    await a.status()
    fleet.network.cut.add("c")
    a.clock.time += 60
    first = by_name(await a.status())["c"]
    a.clock.time += 60
    second = by_name(await a.status())["c"]
    assert first["state"] == second["state"] == "unreachable"
    assert first["lag_ms"] == 7
    assert "cut off" in first["why"]
    assert first["unreachable_since"] == second["unreachable_since"] > first["seen_at"]
    fleet.network.cut.clear()
    again = by_name(await a.status())["c"]
    assert (again["state"], again["unreachable_since"], again["why"]) == ("active", None, "")


async def test_a_machine_that_hangs_costs_a_deadline_and_hides_nobody(fleet: Machines) -> None:
    """All are asked at once; the others are shown whole."""
    fleet.network.hung.add("b")
    with anyio.fail_after(5):
        told = by_name(await fleet["a"].status())
    assert told["b"]["state"] == "unreachable"
    assert "did not answer within 1500 ms" in told["b"]["why"]
    assert told["c"]["state"] == "active"


async def test_a_machine_whose_agent_hangs_says_so(
    fleet: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its control process answers for it, in time for whoever asked."""
    monkeypatch.setattr("kythera.control.peers_status.AGENT_MS", 50)
    fleet["b"].agent = None
    fleet["a"].agent = None
    told = by_name(await fleet["a"].status())
    for name in "ab":
        assert told[name]["state"] == "unreachable"
        assert "agent did not answer" in told[name]["why"]


async def endless() -> AsyncIterator[bytes]:
    """Yield far more than a status may be."""
    for _ in range(STATUS_BYTES_MAX // 65536 + 2):
        yield b" " * 65536


async def trickle() -> AsyncIterator[bytes]:
    """Yield a little now and then, and never end."""
    while True:
        await anyio.sleep(0.02)
        yield b" "


async def once(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body as the network does."""
    yield body


POISON: dict[str, tuple[Any, str]] = {
    "garbage": (b"{]\x00", "cannot be read"),
    "another shape": (b'[["machines"]]', "cannot be read"),
    "a wrong type": (b'{"machines":[{"cpu_share":"much"}]}', "cannot be read"),
    "deep": (b'{"machines":' + b"[" * 100_000, "cannot be read"),
    "huge": (endless, "more than"),
    "slow": (trickle, "did not answer within"),
}


@pytest.mark.parametrize("kind", POISON)
async def test_a_poisoned_answer_is_bounded_and_named(fleet: Machines, kind: str) -> None:
    """Whatever a machine answers, the others are shown and it is said what was wrong."""
    content, why = POISON[kind]
    body = content() if callable(content) else once(content)
    fleet.network.poisoned["b"] = httpx.Response(200, content=body)
    with anyio.fail_after(5):
        told = by_name(await fleet["a"].status())
    assert told["b"]["state"] == "unreachable"
    assert why in told["b"]["why"]
    assert told["c"]["state"] == "active"


async def test_what_an_error_says_cannot_trouble_a_terminal(fleet: Machines) -> None:
    """Another machine's words are shown without control characters, and not all of them."""
    body = b"\x1b[2J" + b"x" * 10_000
    fleet.network.poisoned["b"] = httpx.Response(500, content=once(body))
    why = by_name(await fleet["a"].status())["b"]["why"]
    assert "HTTP 500" in why
    assert "\x1b" not in why
    assert len(why) < 400


async def test_a_machine_speaks_for_itself_alone(fleet: Machines) -> None:
    """Names in its answer are not believed."""
    fleet["b"].agent = {
        "machines": [{"name": "a", "site": "nowhere", "core": True}, {"name": "c"}],
        "cells": [{"machine": "a", "worker": "evil", "version": "v", "state": "ready"}],
    }
    document = await fleet["a"].status()
    told = by_name(document)
    assert (told["b"]["site"], told["b"]["core"]) == ("one", False)
    assert [c["machine"] for c in document["cells"] if c["worker"] == "evil"] == ["b"]
    assert len(document["machines"]) == 3


async def test_a_machine_of_another_version_may_say_more_or_less(fleet: Machines) -> None:
    """Old and new work side by side: what is missing has a default, what is new is passed over."""
    fleet["b"].agent = {"machines": [{"name": "b", "future": {"x": 1}}], "future": 2}
    told = by_name(await fleet["a"].status())["b"]
    assert (told["state"], told["lag_ms"], told["cpu_share"]) == ("active", None, 0.0)


async def test_the_records_say_who_drains_and_a_machine_how_far_it_is(fleet: Machines) -> None:
    """`draining` is a record; `filling` is what the machine knows itself."""
    store = fleet["a"].services.store
    store.catalog()
    await store.write([put(Machine(name="b", site="one", state="draining"))])
    fleet["c"].agent["machines"][0] |= {
        "state": "filling",
        "filling": {"applied": 3, "target": 10},
    }
    told = by_name(await fleet["a"].status())
    assert told["b"]["state"] == "draining"
    assert (told["c"]["state"], told["c"]["filling"]["target"]) == ("filling", 10)


async def test_the_status_needs_neither_the_log_nor_a_copy(fleet: Machines) -> None:
    """It is what one looks at when they are away."""
    fleet.log.pause()
    with anyio.fail_after(2):
        assert len((await fleet["b"].status())["machines"]) == 3
    fleet["b"].copy.absent = True
    with pytest.raises(StoreUnavailable):
        fleet["b"].services.store.catalog()
    document = await fleet["b"].status()
    assert [machine["name"] for machine in document["machines"]] == ["b"]


async def test_a_machine_that_was_removed_says_so_of_itself(fleet: Machines) -> None:
    """The others no longer know it."""
    store = fleet["a"].services.store
    store.catalog()
    await store.write([end("machine.c")])
    assert set(by_name(await fleet["a"].status())) == {"a", "b"}
    assert by_name(await fleet["c"].status())["c"]["state"] == "removed"


async def test_a_machine_alone_tells_of_itself(world: World) -> None:
    """No record of it is needed, and an agent that is not there is said to be."""
    account = world.services.account
    document = await world.ok("GET", f"/client/v4/accounts/{account}/kythera/status")
    assert [machine["name"] for machine in document["machines"]] == ["m"]
    assert document["machines"][0]["state"] == "unreachable"
    assert document["cells"] == []
