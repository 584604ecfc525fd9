"""The agent of one machine: follows the records, decides, and steers what the keeper holds.

`python -m kythera.node.agent --state DIR`, started by the keeper. It holds no state that the
records and the keeper do not have: after a crash or an upgrade the next one adopts sockets and
processes and goes on. When the log is gone it serves on from its copy; when the keeper is gone
it ends.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import structlog

from kythera.deploy.seal import Sealer
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.follower import follow_into
from kythera.distribute.jetstream import open_log, read_log_address
from kythera.distribute.nats_server import prepare as prepare_nats
from kythera.ground.clock import SystemClock
from kythera.ground.journal import configure
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.platform import Platform
from kythera.node.cell_maker import CellMaker
from kythera.node.consoles import Consoles
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import KeeperClient, connect_keeper
from kythera.node.mind import Mind
from kythera.node.status import MachineFacts, StatusServer
from kythera.node.traffic_loop import TrafficLoop
from kythera.run.decide import Cells
from kythera.run.workerd import find_workerd, workerd_version

SIGUSR1, SIGTERM = 10, 15
NATS_STOP_ORDER, FRONT_STOP_ORDER = 9, 0
API_PROBE_S = 0.02
CATCH_UP_S_MAX = 5.0
"""How long readiness waits for the log before the machine serves from its copy alone."""
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


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
        address = await read_log_address(self.layout.log_address)
        async with open_log(address, self.platform.limits) as log:
            self.facts.log = "connected"
            self.front.note_log(await log.last_seq())
            if self.copy.applied_seq() >= await log.last_seq():
                self.caught_up.set()
            target = await log.last_seq()

            def applied(seq: int) -> None:
                self.take_changes()
                if seq >= target:
                    self.caught_up.set()

            await follow_into(log, self.copy, applied)

    def take_changes(self) -> None:
        """Fold what is new in the copy into the catalogue, and let the mind look at it."""
        for entry in self.copy.changes_after(self.facts.applied_seq):
            self.catalog.apply(entry.key, entry.value)
            self.facts.applied_seq = entry.seq
        self.facts.unknown_records = dict(self.catalog.unknown)
        self.mind.records_changed()

    async def prepare_log(self) -> EngineOrder:
        """Write nats-server's configuration; return how to start it."""
        argv, _ = await anyio.to_thread.run_sync(prepare_nats, self.layout)
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
            ca_available=CA_BUNDLE.exists(),
        )
        mind = Mind(keeper, catalog, cells, maker, clock, tasks)
        consoles = Consoles(keeper, clock)
        mind.started = consoles.listen_to
        front = TrafficLoop(layout, platform, mind, facts)
        agent = Agent(
            layout, platform, keeper, copy, catalog, mind, consoles, front, facts, anyio.Event()
        )
        server = StatusServer(str(layout.status_socket), platform, cells, facts)
        await drive(agent, server, tasks)


async def drive(agent: Agent, server: StatusServer, tasks: anyio.abc.TaskGroup) -> None:
    """Adopt what is there, then start every loop and pass on what the keeper says."""
    agent.take_changes()
    agent.mind.adopt()
    for name in list(agent.keeper.processes):
        agent.consoles.listen_to(name)
    log_server = Engine("nats", agent.keeper, agent.prepare_log, agent.consoles.listen_to)
    front = Engine("haproxy", agent.keeper, agent.front.prepare, agent.consoles.listen_to)
    loops: list[Callable[[], Awaitable[None]]] = [
        log_server.run,
        front.run,
        agent.front.run,
        agent.front.measure,
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
        if not hasattr(event, "status"):
            continue
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
    try:
        anyio.run(run, Layout(options.state))
    except* ConnectionError:
        journal.warning("keeper_gone", sentence="the keeper has gone; this agent ends")
        return 1
    except* KytheraError as errors:
        for error in errors.exceptions:
            journal.error("agent_failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
