"""A store that is a workerd of its own, through a real keeper: it outlives what befalls it."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest

from kythera.ground.sockets import close_all
from kythera.model.catalog import Catalog
from kythera.model.records import Account
from kythera.node.keeper_client import Exited, KeeperClient, connect_keeper
from kythera.node.workerd_store import StoreHost, WorkerdStore
from kythera.run.config import schema
from kythera.run.store_config import DISK, StoreView, store_config, store_worker
from kythera.run.workerd import find_workerd
from tests.node.keepers import RunningKeeper, running

pytestmark = pytest.mark.real
schema()  # which keeps files open, once for each process
COUNTER = """
import { DurableObject } from 'cloudflare:workers';
export class Counter extends DurableObject {
  add() {
    this.ctx.storage.sql.exec('CREATE TABLE IF NOT EXISTS c (n)');
    this.ctx.storage.sql.exec('INSERT INTO c VALUES (1)');
    return this.ctx.storage.sql.exec('SELECT COUNT(*) AS n FROM c').one().n;
  }
}
export default { async fetch(request, env) {
  if (new URL(request.url).pathname === '/slow') await scheduler.wait(500);
  const n = await env.COUNTER.get(env.COUNTER.idFromName('only')).add();
  return Response.json({ n, name: env.NAME });
} };
"""


def counter(catalog: Catalog, view: StoreView) -> bytes | None:
    """Keep a counter as soon as there is an account, whose name it tells."""
    names = [r.id for r in catalog.records.values() if isinstance(r, Account)]
    if not names:
        return None
    worker = store_worker(
        [{"name": "counter.js", "esModule": COUNTER}],
        [
            {"name": "COUNTER", "durableObjectNamespace": {"className": "Counter"}},
            {"name": "NAME", "text": ",".join(sorted(names))},
        ],
        durableObjectNamespaces=[
            {"className": "Counter", "uniqueKey": "counter", "enableSql": True}
        ],
        durableObjectStorage={"localDisk": DISK},
    )
    return store_config([{"name": "counter", "worker": worker}], {"name": "counter"}, view)


@asynccontextmanager
async def agent(keeper: RunningKeeper) -> AsyncIterator[tuple[KeeperClient, WorkerdStore]]:
    """Drive one store as the agent does, until the block ends (as a crashed agent's work would)."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:

        def started(name: str) -> None:
            output, client.processes[name].output = client.processes[name].output, None
            close_all([] if output is None else [output])

        host = StoreHost(keeper.layout, keeper.platform, client, find_workerd(), started)
        store = WorkerdStore("counter", host, counter)
        await client.listen("store/counter", keeper.layout.store_socket("counter"))

        async def hear() -> None:
            async for event in client.events:
                if isinstance(event, Exited):
                    store.note(event)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear)
            tasks.start_soon(store.run)
            yield client, store
            tasks.cancel_scope.cancel()


async def ask(keeper: RunningKeeper, path: str = "/") -> dict[str, object]:
    """Count one more."""
    transport = httpx.AsyncHTTPTransport(uds=str(keeper.layout.store_socket("counter")))
    async with httpx.AsyncClient(transport=transport, timeout=20) as client:
        answer = await client.get(f"http://store{path}")
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found


def named(*names: str) -> Catalog:
    """Return records of accounts."""
    catalog = Catalog()
    for name in names:
        catalog.records[f"account.{name}"] = Account(id=name, name=name, subdomain=name)
    return catalog


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a level, until a deadline."""
    with anyio.fail_after(20):
        while not holds():
            await anyio.sleep(0.02)


def pid_of(client: KeeperClient) -> int:
    """Return the store's process; 0: none runs."""
    held = client.processes.get("store/counter")
    return 0 if held is None else held.pid


LIMITS = {"store_look_ms": 100, "store_silent_ms_max": 1_000}


@pytest.mark.anyio
async def test_it_outlives_what_befalls_it(tmp_path: Path) -> None:
    """Goal: nothing runs without a reason; killed, hung, left by its agent or told another
    configuration it goes on counting, and who asks meanwhile waits."""
    with running(tmp_path / "state", limits=LIMITS) as keeper:
        async with agent(keeper) as (client, store):
            store.records_changed(Catalog())
            await anyio.lowlevel.checkpoint()
            assert pid_of(client) == 0
            store.records_changed(named("one"))
            assert await ask(keeper) == {"n": 1, "name": "one"}
            os.kill(pid_of(client), signal.SIGKILL)
            assert await ask(keeper) == {"n": 2, "name": "one"}
            os.kill(pid_of(client), signal.SIGSTOP)
            assert await ask(keeper) == {"n": 3, "name": "one"}
            last = pid_of(client)
        async with agent(keeper) as (client, store):
            store.records_changed(named("one"))
            assert await ask(keeper) == {"n": 4, "name": "one"}
            assert pid_of(client) == last

            store.records_changed(named("one", "two"))
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask, keeper, "/slow")
            await until(lambda: pid_of(client) not in (0, last))
            assert await ask(keeper) == {"n": 8, "name": "one,two"}
            store.records_changed(Catalog())
            await until(lambda: pid_of(client) == 0)
    assert list((tmp_path / "state" / "data" / "counter" / "counter").glob("*.sqlite"))
