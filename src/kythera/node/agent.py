"""The agent of one machine: follows the records, decides, and steers what the keeper holds.

`python -m kythera.node.agent --state DIR`, started by the keeper. It holds no state that the
records and the keeper do not have: after a crash or an upgrade the next one adopts sockets and
processes and goes on. When the log is gone it serves on from its copy; when the keeper is gone
it ends.
"""

import argparse
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import structlog

from kythera.deploy.seal import Sealer
from kythera.distribute.address import read_log_address
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.follower import follow_into
from kythera.distribute.jetstream import open_log
from kythera.distribute.log import Log
from kythera.distribute.nats_server import prepare as prepare_nats
from kythera.distribute.nats_server import verify
from kythera.distribute.served import Served
from kythera.ground.clock import SystemClock
from kythera.ground.journal import configure
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, SetupError, StoreUnavailable
from kythera.model.platform import Platform
from kythera.node.cell_maker import CellMaker
from kythera.node.consoles import Consoles
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited, KeeperClient, connect_keeper
from kythera.node.keeper_programs import GIVE_UP_STATUS
from kythera.node.mind import Mind
from kythera.node.status import MachineFacts, StatusServer
from kythera.node.traffic_loop import TrafficLoop
from kythera.run.decide import Cells
from kythera.run.workerd import ca_available, find_workerd, workerd_version

SIGTERM = 15
NATS_STOP_ORDER = 9
API_PROBE_S = 0.02
LOG_RETRY_S = 0.2
CATCH_UP_S_MAX = 5.0
"""How long readiness waits for the log before the machine serves from its copy alone."""


@dataclass
class Agent:
    """The parts, joined."""

    layout: Layout
    platform: Platform
    keeper: KeeperClient
    copy: Copy
    catalog: Catalog
    mind: Mind
    consoles: Consoles
    front: TrafficLoop
    facts: MachineFacts
    caught_up: anyio.Event

    async def follow_log(self) -> None:
        """Bring every record into the copy, the catalogue and the mind, for ever."""
        async with open_log(self.layout.log_address, self.platform.limits, within_ms=0) as log:
            target = await self._newest(log)

            def applied(seq: int) -> None:
                self.take_changes()
                if seq >= target:
                    self.caught_up.set()

            applied(self.copy.applied_seq())
            await follow_into(log, self.copy, applied)

    async def _newest(self, log: Log) -> int:
        """Return the log's newest sequence number, waiting as long as it takes to be there."""
        while True:
            try:
                newest = await log.last_seq()
            except StoreUnavailable as error:
                self.facts.log = f"down: {error.message}"
                await anyio.sleep(LOG_RETRY_S)
            else:
                self.facts.log = await self._durability()
                return newest

    async def _durability(self) -> str:
        """Ask nats-server how it writes: acknowledged must mean on the disk."""
        try:
            await verify(await read_log_address(self.layout.log_address))
        except KytheraError as error:
            structlog.get_logger("agent").error("log_not_durable", error=str(error))
            return f"connected, but {error.message}"
        return "connected"

    def take_changes(self) -> None:
        """Fold what is new in the copy into the catalogue, and let the mind look at it."""
        for entry in self.copy.changes_after(self.facts.applied_seq):
            self.catalog.apply(entry.key, entry.value)
            self.facts.applied_seq = entry.seq
        self.facts.unknown_records = dict(self.catalog.unknown)
        self.mind.records_changed()

    async def prepare_log(self) -> EngineOrder:
        """Write nats-server's configuration; return how to start it."""
        argv, _ = prepare_nats(self.layout, self.platform.limits)
        return EngineOrder(argv, {}, SIGTERM, NATS_STOP_ORDER)

    async def announce(self) -> None:
        """Tell the keeper that this machine serves, once front, log and API answer."""
        with anyio.move_on_after(CATCH_UP_S_MAX):
            await self.caught_up.wait()
        await self.front.ready.wait()
        while not await api_answers(self.platform.api):
            await anyio.sleep(API_PROBE_S)
        await self.keeper.announce({})


async def api_answers(address: str) -> bool:
    """Ask the control API whether it is healthy; False on any failure."""
    host, _, port = address.rpartition(":")
    with anyio.move_on_after(2.0):
        try:
            async with await anyio.connect_tcp(host.strip("[]") or "127.0.0.1", int(port)) as peer:
                await peer.send(b"GET /healthz HTTP/1.0\r\nHost: kythera\r\n\r\n")
                return b" 200 " in (await peer.receive())[:20]
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
    return False


async def run(layout: Layout) -> None:
    """Run the agent until the keeper goes away or a task fails."""
    platform = layout.read_platform()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(connect_keeper(layout.keeper_socket))
        copy = Copy(layout.copy)
        stack.callback(copy.close)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        catalog, facts = Catalog(), MachineFacts()
        workerd = find_workerd()
        facts.workerd = await workerd_version(workerd)
        layout.cells.mkdir(mode=0o700, parents=True, exist_ok=True)
        cells = Cells(str(layout.cells), platform.limits, os.cpu_count() or 1)
        maker = CellMaker(
            layout=layout,
            platform=platform,
            workerd=workerd,
            blobs=Blobs(layout.blobs),
            sealer=Sealer.load(layout.secrets_key),
            ca_available=ca_available(),
        )
        mind = Mind(keeper, catalog, cells, maker, clock, tasks)
        consoles = Consoles(keeper, clock)
        mind.started = consoles.listen_to
        table = stack.enter_context(Served(layout.served))
        front = TrafficLoop(layout, platform, mind, facts, table)
        agent = Agent(
            layout, platform, keeper, copy, catalog, mind, consoles, front, facts, anyio.Event()
        )
        server = StatusServer(str(layout.status_socket), platform, cells, facts)
        await drive(agent, server, tasks)


async def drive(agent: Agent, server: StatusServer, tasks: anyio.abc.TaskGroup) -> None:
    """Adopt what is there, then start every loop and pass on what the keeper says."""
    agent.mind.adopt()
    agent.take_changes()
    for name in list(agent.keeper.processes):
        agent.consoles.listen_to(name)
    log_server = Engine("nats", agent.keeper, agent.prepare_log, agent.consoles.listen_to)
    front = Engine("haproxy", agent.keeper, agent.front.prepare, agent.consoles.listen_to)
    loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
        log_server.run,
        front.run,
        agent.front.run,
        agent.front.measure,
        agent.facts.measure,
        agent.mind.watch_sockets,
        agent.mind.keep_time,
        agent.consoles.run,
        agent.follow_log,
        agent.announce,
        server.run,
    ]
    for loop in loops:
        tasks.start_soon(loop)
    async for event in agent.keeper.events:
        agent.mind.keeper_says(event)
        if isinstance(event, Exited):
            log_server.note(event)
            front.note(event)
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
    except* ConnectionError:
        code = 1
        journal.warning("keeper_gone", sentence="the keeper has gone; this agent ends")
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
