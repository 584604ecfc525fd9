"""`kythera up --join` as a person types it: a real keeper, and in this process the fleet it joins."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from kythera.control.join_tokens import create
from kythera.distribute import membership
from kythera.distribute.authority import own_name
from kythera.ground.layout import Layout
from tests.control.fleets import Machines, machines
from tests.control.mesh_doors import SECRETS_KEY, found_fleet, open_door, say_address
from tests.control.world import ACCOUNT, TOKEN
from tests.node.keepers import RunningKeeper, running, start

pytestmark = [pytest.mark.anyio, pytest.mark.real]
WAIT_S = 60.0


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return a fleet of one, whose mesh door is open."""
    async with machines(tmp_path, "a") as made:
        found_fleet(made, tmp_path)
        layout = made["a"].services.fleet.layout
        assert layout is not None
        async with open_door(layout, made["a"].peers_app) as address:
            await say_address(made["a"], address)
            yield made


async def token(fleet: Machines) -> str:
    """Return a fresh line."""
    return (await create(fleet["a"].services, 600)).token


def ended(keeper: RunningKeeper) -> str:
    """Wait for a keeper's end; return what it said."""
    keeper.process.wait(WAIT_S)
    assert keeper.process.stdout is not None
    keeper.process.stdout.close()
    return keeper.log.read_text()


async def test_a_keeper_joins_before_it_starts_anything(fleet: Machines, state: Path) -> None:
    """Goal: one command. Method: start with a token; read the folder, the log and the records."""
    line = await token(fleet)

    def join_and_restart() -> tuple[str, str]:
        with running(state, join=line, site="flat", machine="pi-3") as keeper:
            first = keeper.platform
            assert (first.account_id, first.domain, first.site) == (ACCOUNT, "localhost", "flat")
            said = keeper.log.read_text()
            keeper.stop()
        with running(state, join=line) as again:
            assert again.platform.account_id == ACCOUNT
            assert (again.platform.machine, again.platform.site) == ("pi-3", "flat")
            assert again.platform.mesh == first.mesh
            return said, again.log.read_text()

    with anyio.fail_after(WAIT_S):
        said, again = await to_thread.run_sync(join_and_restart)
    layout = Layout(state)
    assert "to join as 'pi-3'" in said
    assert "Joined the fleet as 'pi-3'." in said
    assert said.index("Joined") < said.index("agent_started")
    assert "joined with that token already; --join is ignored" in again
    assert own_name(layout) == "pi-3"
    assert (layout.token.read_text(), layout.secrets_key.read_bytes()) == (TOKEN, SECRETS_KEY)
    member = membership.read(layout)
    assert member is not None
    assert not member.founder
    record = fleet["a"].catalog.machine("pi-3")
    assert record is not None
    assert (record.site, record.mesh) == ("flat", layout.read_platform().mesh)
    assert record.workerd


async def test_a_keeper_that_may_not_join_does_not_start(fleet: Machines, state: Path) -> None:
    """Goal: the reason and the remedy, and nothing else. Method: a name that is taken, half a line."""
    line = await token(fleet)
    tries: tuple[tuple[dict[str, Any], str], ...] = (
        ({"join": line, "machine": "a"}, "a machine 'a' in the fleet already"),
        ({"join": line[:-9], "machine": "b"}, "not a whole token"),
    )
    for options, reason in tries:
        with anyio.fail_after(WAIT_S):
            said = await to_thread.run_sync(ended, start(state, **options))
        assert f"cannot join: {reason}" in said or reason in said
        assert "agent_started" not in said
        assert not Layout(state).membership.exists()
