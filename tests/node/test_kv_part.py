"""When this machine's KV store runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.platform import Platform
from kythera.model.records import Account, Resource, encode
from kythera.node.keeper_client import Exited, KeeperClient
from kythera.node.kv_part import PROCESS, KvPart
from kythera.node.workerd_store import StoreHost

pytestmark = pytest.mark.anyio
ACCOUNT = "a" * 32


class Keeper:
    """Notes what it is told to start."""

    def __init__(self) -> None:
        self.processes: dict[str, Any] = {}
        self.stopping = anyio.Event()
        self.started: list[list[str]] = []

    async def spawn(self, name: str, argv: list[str], **more: Any) -> None:
        """Start one."""
        self.started.append(argv)
        self.processes[name] = SimpleNamespace(pid=len(self.started))


def part_of(keeper: Keeper, folder: Path) -> KvPart:
    """Return the part of a machine with this keeper."""
    platform = Platform(account_id=ACCOUNT, machine="m", http="127.0.0.1:1")
    host = StoreHost(Layout(folder), platform, cast("KeeperClient", keeper), Path("workerd"))
    return KvPart(host)


def catalog_with(*records: Account | Resource) -> Catalog:
    """Return a catalogue of these."""
    catalog = Catalog()
    for record in records:
        catalog.apply(record.key(), encode(record))
    return catalog


async def test_the_store_starts_with_the_first_namespace_and_again_when_it_ends(
    tmp_path: Path,
) -> None:
    """Goal: a machine without KV pays nothing for it."""
    keeper = Keeper()
    part = part_of(keeper, tmp_path)
    account = Account(id=ACCOUNT, name="k", subdomain="localhost")
    space = Resource(
        account=ACCOUNT, type="kv_namespace", id="0" * 32, name="n", created_on="2026-01-01"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(part.run)
        part.records_changed(catalog_with(account))
        await anyio.wait_all_tasks_blocked()
        assert keeper.started == []
        part.records_changed(catalog_with(account, space))
        await anyio.wait_all_tasks_blocked()
        (argv,) = keeper.started
        assert argv[1:3] == ["-m", "kythera.node.kv_server"]
        assert argv[-1] == "{socket:store/kv}"
        del keeper.processes[PROCESS]
        part.note(cast("Exited", SimpleNamespace(name=PROCESS, status=1)))
        with anyio.fail_after(5):
            while len(keeper.started) < 2:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def test_a_store_that_runs_already_is_adopted(tmp_path: Path) -> None:
    """Goal: an agent's crash ends no store."""
    keeper = Keeper()
    keeper.processes[PROCESS] = SimpleNamespace(pid=7)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(part_of(keeper, tmp_path).run)
        await anyio.wait_all_tasks_blocked()
        assert keeper.started == []
        tasks.cancel_scope.cancel()
