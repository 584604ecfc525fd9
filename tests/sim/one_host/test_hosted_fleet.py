"""A fleet on one computer, with machines that serve nothing: order, faults, what is left."""

import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from kythera.ground.journal import Journal
from kythera.model.errors import KytheraError, SetupError
from kythera.sim.one_host.control import Control, send_order, socket_path
from kythera.sim.one_host.fleet import HostedFleet, hosted
from kythera.sim.one_host.living import first_living, read_fleet
from kythera.sim.one_host.orders import Order
from kythera.sim.one_host.plan import plan
from tests.processes import PROC, birth, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.real]
FAKE = str(Path(__file__).with_name("fake_machine.py"))


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    """No test of this file waits for ever."""
    with anyio.fail_after(30):
        yield


@asynccontextmanager
async def fleet_in(folder: Path, machines: int = 3) -> AsyncIterator[HostedFleet]:
    """Open a fleet of fake machines."""
    plans = plan(
        folder,
        machines=machines,
        sites=2,
        cores=None,
        hosts=["127.0.0.1"] * machines,
        http_port=0,
        api_port=0,
    )
    async with hosted(
        folder,
        plans,
        argv=lambda one, token: [sys.executable, FAKE, "up", str(one.folder), token],
        command=lambda one, words: [sys.executable, FAKE, "ask", str(one.folder), *words],
        journal=Journal("fleet", json_lines=True),
    ) as fleet:
        yield fleet


def state_of(pid: int) -> str:
    """Return the kernel's letter for a process: S sleeps, T is stopped."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


async def test_the_first_founds_the_others_join_and_the_core_is_made(tmp_path: Path) -> None:
    """Goal: a fleet in the right order. Method: what each machine saw and was asked."""
    notes: list[str] = []
    async with fleet_in(tmp_path) as fleet:
        await fleet.start(notes.append)
        seen = {
            name: json.loads((tmp_path / name / "seen.json").read_text()) for name in fleet.machines
        }
        asked = (tmp_path / "asked").read_text().splitlines()
        file = read_fleet(tmp_path)
        await fleet.stop(notes.append)
    assert [each["token"] for each in seen.values()] == ["", "token-of-m1", "token-of-m1"]
    assert {name: sorted(each["links"]) for name, each in seen.items()} == {
        "m1": ["m2", "m3"],
        "m2": ["m1", "m3"],
        "m3": ["m1", "m2"],
    }
    assert asked.count("m1: token create --json") == 2
    assert asked[-1] == "m1: machine promote --json m2 m3"
    assert file is not None
    assert [(one.name, one.site, one.life) for one in file.machines] == [
        ("m1", "s1", "up"),
        ("m2", "s2", "up"),
        ("m3", "s1", "up"),
    ]
    assert file.ready_event()["account_id"] == "acc"
    assert (tmp_path / "ended").read_text().split()[-1] == "m1", "the founder ends last"
    assert any("m1 founded" in note for note in notes)


async def test_a_machine_that_does_not_start_ends_the_fleet_with_its_reason(tmp_path: Path) -> None:
    """Goal: no riddle. Method: the second machine refuses to start."""
    (tmp_path / "m2").mkdir()
    (tmp_path / "m2" / "refuse").touch()
    with pytest.raises(ExceptionGroup) as caught:
        async with fleet_in(tmp_path) as fleet:
            await fleet.start(lambda _text: None)
    expected, others = caught.value.split(SetupError)
    assert others is None
    assert "there is no room for me" in str(expected.exceptions[0].exceptions)  # type: ignore[union-attr]
    child = int((tmp_path / "m1" / "child").read_text())
    wait_until(lambda: birth(child) is None, "the founder's child is gone")


async def test_a_killed_machine_is_down_and_a_revived_one_needs_no_token(tmp_path: Path) -> None:
    """Goal: kill -9 and back. Method: pids, lives, and the token of its second start."""
    async with fleet_in(tmp_path) as fleet:
        await fleet.start(lambda _text: None)
        before = fleet.machines["m2"].pid
        shown = await fleet.obey(Order(do="kill", a="m2"))
        assert [one["life"] for one in shown["machines"]] == ["up", "down", "up"]
        assert birth(before) is None
        with pytest.raises(KytheraError, match="it is down"):
            await fleet.obey(Order(do="hang", a="m2"))
        await fleet.obey(Order(do="revive", a="m2"))
        assert fleet.machines["m2"].pid not in (0, before)
        assert json.loads((tmp_path / "m2" / "seen.json").read_text())["token"] == ""
        await fleet.stop(lambda _text: None)


async def test_a_machine_that_lost_its_folder_joins_anew(tmp_path: Path) -> None:
    """Goal: a machine replaced by an empty one. Method: stop, empty the folder, revive."""
    async with fleet_in(tmp_path) as fleet:
        await fleet.start(lambda _text: None)
        await fleet.obey(Order(do="stop", a="m1"))
        assert (tmp_path / "ended").read_text().split() == ["m1"], "stopped in order"
        shutil.rmtree(tmp_path / "m1")
        await fleet.obey(Order(do="revive", a="m1"))
        seen = json.loads((tmp_path / "m1" / "seen.json").read_text())
        assert seen["token"] == "token-of-m2", "whoever lives is asked for a token"
        assert sorted(seen["links"]) == ["m2", "m3"]
        await fleet.stop(lambda _text: None)


async def test_a_hung_machine_stands_still_with_its_children_until_it_is_revived(
    tmp_path: Path,
) -> None:
    """Goal: SIGSTOP for all. Method: the kernel's word about keeper and child."""
    async with fleet_in(tmp_path) as fleet:
        await fleet.start(lambda _text: None)
        pids = [fleet.machines["m2"].pid, int((tmp_path / "m2" / "child").read_text())]
        await fleet.obey(Order(do="hang", a="m2"))
        assert [state_of(pid) for pid in pids] == ["T", "T"]
        assert fleet.file().machines[1].life == "hung"
        await fleet.obey(Order(do="revive", a="m2"))
        wait_until(lambda: "T" not in [state_of(pid) for pid in pids], "they go on")
        await fleet.obey(Order(do="hang", a="m3"))
        await fleet.stop(lambda _text: None)
        assert "m3" in (tmp_path / "ended").read_text(), "a hung machine is woken to be stopped"


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder whose name is short enough for a socket in it."""
    with TemporaryDirectory(prefix="kythera-") as made:
        (Path(made) / "run").mkdir()
        yield Path(made)


async def test_orders_come_over_a_socket_and_refused_ones_are_answered(short: Path) -> None:
    """Goal: faults from another terminal. Method: cut, look, a wrong name, heal."""
    async with fleet_in(short) as fleet, anyio.create_task_group() as tasks:
        await tasks.start(Control(fleet).serve, socket_path(short))
        await fleet.start(lambda _text: None)

        async def order(**words: object) -> dict[str, object]:
            wanted = Order(**words)  # type: ignore[arg-type]
            return await anyio.to_thread.run_sync(send_order, short, wanted)

        shown = await order(do="cut", a="m1", b="m2", one_way=True)
        assert shown["links"] == [{"from": "m1", "to": "m2", "is": "silent"}]
        shown = await order(do="slow", a="s1", b="s2", delay_ms=300)
        assert {"from": "m2", "to": "m3", "is": "late by 300 ms"} in shown["links"]  # type: ignore[operator]
        with pytest.raises(KytheraError, match="no machine or site 'm9'"):
            await order(do="kill", a="m9")
        shown = await order(do="heal")
        assert shown["links"] == []
        await fleet.stop(lambda _text: None)
        tasks.cancel_scope.cancel()


async def test_without_a_fleet_an_order_says_how_to_start_one(tmp_path: Path) -> None:
    """Goal: no traceback. Method: an empty folder; and nobody lives in a stale one."""
    with pytest.raises(SetupError, match="no fleet answers") as caught:
        send_order(tmp_path, Order(do="show"))
    assert "kythera fleet up" in caught.value.remedy
    assert first_living(tmp_path) is None
