"""The agent of one machine: follows the records, decides, and steers what the keeper holds.

`python -m kythera.node.agent --state DIR`, started by the keeper. It holds no state that the
records and the keeper do not have: after a crash or an upgrade the next one adopts sockets and
processes and goes on. When the log is gone it serves on from its copy; when the keeper is gone
it ends.
"""

import argparse
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog

import kythera.distribute.nats_alone  # noqa: F401
from kythera.deploy.keyring import Keyring
from kythera.distribute.archive import is_restoring
from kythera.distribute.authority import found
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.fetch import Fetcher
from kythera.distribute.fold import readable
from kythera.distribute.mesh import MeshClient
from kythera.distribute.promotion import Mover
from kythera.distribute.served import Served
from kythera.ground.chance import SystemChance
from kythera.ground.clock import SystemClock
from kythera.ground.journal import configure
from kythera.ground.key_files import key_files
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, SetupError
from kythera.model.platform import Platform
from kythera.model.records import Version
from kythera.node.blob_loop import BlobLoop, Place
from kythera.node.cell_maker import CellMaker
from kythera.node.consoles import Consoles
from kythera.node.egress import EgressCell
from kythera.node.engines import Engine
from kythera.node.events import Events
from kythera.node.events_door import EventsDoor
from kythera.node.fleet import Fleet
from kythera.node.front_log import read_failures
from kythera.node.keeper_client import Exited, KeeperClient, connect_keeper
from kythera.node.keeper_programs import GIVE_UP_STATUS
from kythera.node.key_loop import KeyLoop
from kythera.node.log_servers import LogServers
from kythera.node.mind import Mind
from kythera.node.object_cells import ObjectCells
from kythera.node.object_doors import with_objects
from kythera.node.pace_loop import PaceLoop
from kythera.node.records_loop import RecordsLoop
from kythera.node.status import MachineFacts, StatusServer
from kythera.node.stores import StorePart, Stores, parts_of, store_doors
from kythera.node.traffic_loop import TrafficLoop
from kythera.node.turn_watch import TurnWatch
from kythera.node.workerd_loop import Workerds
from kythera.node.workerd_store import StoreHost
from kythera.run.decide import Cells
from kythera.run.outbound import EgressDoor

API_PROBE_S = 0.02
API_WRITES_S_MAX = 10.0
RESTORED_S_MAX = 10.0


@dataclass
class Agent:
    """The parts, joined."""

    layout: Layout
    platform: Platform
    keeper: KeeperClient
    mind: Mind
    consoles: Consoles
    fleet: Fleet
    servers: LogServers
    records: RecordsLoop
    front: TrafficLoop
    blobs: BlobLoop
    egress: EgressCell
    stores: Stores
    events: EventsDoor
    objects: ObjectCells
    facts: MachineFacts
    client: MeshClient
    keys: KeyLoop
    workerds: Workerds

    async def announce(self) -> None:
        """Tell the keeper that this machine serves, once records, front and API answer."""
        await self.records.caught_up()
        await self.front.ready.wait()
        await api_ready(self.platform.api)
        await restored(self.layout)
        # Else who asks at once is told that there is nothing here.
        await self.front.settled()
        await self.keeper.announce({})

    def records_changed(self) -> None:
        """Have everybody look at the catalogue."""
        self.mind.records_changed()
        self.blobs.changed()
        self.stores.records_changed(self.mind.catalog)
        self.objects.records_changed(self.mind.catalog)

    async def prepare(self, version: Version) -> None:
        """Wait, but not for ever, until what a version is made of is on this machine."""
        await self.blobs.prepare(version)
        await self.keys.prepare(version)
        await self.objects.prepare(version)

    async def follow(self) -> None:
        """Follow the records, for ever."""
        await self.records.run(self.client)

    async def move_log(self) -> None:
        """Bring this machine's part of a move of the log on, for ever."""
        mover = Mover(self.layout, self.platform.machine, self.platform.limits)
        await mover.keep_moving(self.fleet.core)

    async def show(self) -> None:
        """Keep what status tells of the fleet current, for ever."""
        await self.fleet.show(self.facts)


async def api_ready(address: str) -> None:
    """Wait until the API can write, but not for ever: a machine that is cut off from the log serves
    from its copy, and its API reads from it."""
    with anyio.move_on_after(API_WRITES_S_MAX):
        while not await api_answers(address, "/healthz"):
            await anyio.sleep(API_PROBE_S)
        return
    while not await api_answers(address, "/healthz?reads"):
        await anyio.sleep(API_PROBE_S)


async def restored(layout: Layout) -> None:
    """Wait, but not for ever, until what a restore left to be written is in the log, and here."""
    with anyio.move_on_after(RESTORED_S_MAX):
        while await anyio.to_thread.run_sync(is_restoring, layout):
            await anyio.sleep(API_PROBE_S)


async def api_answers(address: str, path: str) -> bool:
    """Ask the control API whether it is healthy; False on any failure."""
    host, _, port = address.rpartition(":")
    with anyio.move_on_after(2.0):
        try:
            async with await anyio.connect_tcp(host.strip("[]") or "127.0.0.1", int(port)) as peer:
                await peer.send(f"GET {path} HTTP/1.0\r\nHost: kythera\r\n\r\n".encode())
                return b" 200 " in (await peer.receive())[:20]
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
    return False


def hear(mind: Mind, consoles: Consoles) -> None:
    """Let the mind know of what processes print, and their output be read."""
    mind.started = consoles.listen_to
    mind.ran_out_of_memory = consoles.ran_out_of_memory
    consoles.dropped = lambda cell, lines: mind.incidents.add(
        cell.account, cell.worker, "logsDropped", lines
    )
    consoles.exceeded = lambda cell, reason: mind.incidents.add(
        cell.account, cell.worker, reason, 1
    )


def maker_of(
    host: StoreHost,
    stores: Sequence[StorePart],
    keyring: Keyring,
    egress: EgressDoor,
    programs: Mapping[str, Path],
    catalog: Catalog,
) -> CellMaker:
    """Return what makes cells of versions, with all that they may reach on this machine."""
    layout = host.layout
    doors = store_doors(layout, [store.name for store in stores])
    blobs = Blobs(layout.blobs)
    maker = CellMaker(
        layout, host.platform, host.workerd, blobs, keyring, egress, programs, doors, catalog
    )
    return with_objects(maker, catalog)


async def run(layout: Layout) -> None:
    """Run the agent until the keeper goes away or a task fails."""
    platform = layout.read_platform()
    clock = SystemClock()
    found(layout, platform.machine, clock, platform.limits.certificate_life_s)
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(connect_keeper(layout.keeper_socket))
        copy = Copy(layout.copy, readable=readable)
        stack.callback(copy.close)
        table = stack.enter_context(Served(layout.served))
        client = await stack.enter_async_context(MeshClient(layout, platform.limits))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        catalog, facts = Catalog(), MachineFacts()
        layout.cells.mkdir(mode=0o700, parents=True, exist_ok=True)
        cells = Cells(str(layout.cells), platform.limits, os.cpu_count() or 1)
        workerds = Workerds(layout, platform, cells, facts, clock)
        workerd = Path((await workerds.begin()).path)
        blobs = Blobs(layout.blobs)
        egress = EgressCell(layout, platform, keeper, facts, workerd)
        keyring = Keyring(key_files(layout, platform))
        consoles = Consoles(keeper, clock)
        host = StoreHost(layout, platform, keeper, workerd, consoles.listen_to, facts.store_counted)
        stores = parts_of(host)
        maker = maker_of(host, stores, keyring, egress.door, workerds.programs, catalog)
        mind = Mind(keeper, catalog, cells, maker, clock, tasks)
        hear(mind, consoles)
        fleet = Fleet(layout, platform, catalog, clock)
        fetcher = await stack.enter_async_context(
            Fetcher(
                blobs, client, fleet.machines, fleet.me, platform.limits, cores=fleet.core_names
            )
        )
        servers = LogServers(layout, platform.limits, keeper, fleet, consoles.listen_to)
        agent = Agent(
            layout=layout,
            platform=platform,
            keeper=keeper,
            mind=mind,
            consoles=consoles,
            fleet=fleet,
            servers=servers,
            records=RecordsLoop(
                layout, platform, copy=copy, catalog=catalog, clock=clock, fleet=fleet, facts=facts
            ),
            front=TrafficLoop(
                layout, platform, mind, facts, table=table, fleet=fleet, servers=servers
            ),
            blobs=BlobLoop(
                fetcher,
                maker,
                Place(lambda: catalog, cells, fleet.is_core, fleet.is_fresh),
                clock,
                platform.limits,
            ),
            egress=egress,
            stores=Stores(layout, keeper, stores),
            events=EventsDoor(layout, keeper, Events(mind, SystemChance())),
            objects=ObjectCells(layout, platform, keeper, mind, workerds),
            facts=facts,
            client=client,
            keys=KeyLoop(keyring, platform.limits.blob_prepare_ms),
            workerds=workerds,
        )
        await drive(
            agent,
            StatusServer(str(layout.status_socket), platform, cells, facts, mind.incidents),
            tasks,
        )


async def drive(agent: Agent, server: StatusServer, tasks: anyio.abc.TaskGroup) -> None:
    """Adopt what is there, then start every loop and pass on what the keeper says."""
    agent.records.changed = agent.records_changed
    agent.objects.tell = agent.facts.store_counted
    agent.facts.objects = agent.objects.told
    agent.egress.started = agent.objects.started = agent.consoles.listen_to
    agent.consoles.engine_said = agent.egress.hear
    agent.mind.prepare, agent.mind.heal = agent.prepare, agent.blobs.heal
    agent.servers.changed = agent.mind.traffic_due
    await agent.egress.open()
    await agent.events.open()
    await agent.stores.open()
    agent.mind.adopt()
    agent.records.take_changes()
    agent.records_changed()
    for name in list(agent.keeper.processes):
        agent.consoles.listen_to(name)
    front = Engine("haproxy", agent.keeper, agent.front.prepare, agent.consoles.listen_to)
    loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
        agent.servers.run,
        front.run,
        agent.egress.run,
        agent.stores.run,
        agent.events.run,
        agent.objects.run,
        agent.front.run,
        agent.front.measure,
        agent.front.watch_files,
        agent.front.door.count,
        agent.front.door.end_slow,
        agent.facts.measure,
        agent.show,
        agent.mind.watch_sockets,
        agent.mind.keep_time,
        agent.consoles.run,
        partial(read_failures, agent.layout.front_log, agent.mind.request_failed),
        TurnWatch(agent.mind, agent.front.loads, agent.front.at_once).run,
        PaceLoop(agent.keeper.processes, agent.mind.pulses).run,
        agent.follow,
        agent.move_log,
        agent.blobs.fetch_ahead,
        agent.blobs.sweep,
        agent.keys.run,
        agent.workerds.run,
        agent.announce,
        server.run,
    ]
    for loop in loops:
        tasks.start_soon(loop)
    async for event in agent.keeper.events:
        agent.mind.keeper_says(event)
        agent.objects.note(event)
        if isinstance(event, Exited):
            agent.servers.note(event)
            front.note(event)
            agent.egress.note(event)
            agent.stores.note(event)
            agent.front.note_exit(event)


def main(argv: list[str] | None = None) -> int:
    """Parse arguments, configure the log, run."""
    parser = argparse.ArgumentParser(prog="kythera.node.agent", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args(argv)
    configure("agent")
    journal = structlog.get_logger("agent")
    code = 0
    try:
        anyio.run(run, Layout(options.state))
    except* ConnectionError as errors:
        code = 1
        journal.warning(
            "keeper_gone",
            sentence="the keeper has gone; this agent ends",
            why="; ".join(map(repr, errors.exceptions)),
        )
    except* SetupError as errors:
        code = GIVE_UP_STATUS
        for problem in errors.exceptions:
            journal.error("agent_cannot_run", error=str(problem))
    except* KytheraError as errors:
        code = 1
        for error in errors.exceptions:
            journal.error("agent_failed", error=str(error))
    return code


if __name__ == "__main__":
    sys.exit(main())
