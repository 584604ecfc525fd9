"""Bare workerd, the yardstick: the same worker, no platform around it, on a loopback TCP socket."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from bench.client import Address, Broken, fetch
from kythera.ground.processes import child
from kythera.run.workerd import find_workerd

READY_S = 10.0
POLL_S = 0.002
CONFIG = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")] );
const main :Workerd.Worker = (
  modules = [(name = "index.js", esModule = embed "index.js")],
  compatibilityDate = "2026-04-01" );
"""


@dataclass(frozen=True)
class Bare:
    """Where it listens, and its processes."""

    address: Address
    pids: tuple[int, ...]


@asynccontextmanager
async def bare_workerd(
    folder: Path, source: str, processes: int, *, config: str = CONFIG
) -> AsyncIterator[Bare]:
    """Serve `source` with so many processes on one listening socket."""
    folder.mkdir()
    (folder / "index.js").write_text(source)
    (folder / "config.capnp").write_text(config)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        number = listening.fileno()
        command = [str(find_workerd()), "serve", str(folder / "config.capnp")]
        pids = []
        for _ in range(processes):
            one = await stack.enter_async_context(
                child(
                    [*command, "--socket-fd", f"http={number}"], pass_fds=(number,), capture=False
                )
            )
            pids.append(one.pid)
        address: Address = listening.getsockname()
        await answers(address)
        yield Bare(address, tuple(pids))


async def answers(address: Address) -> None:
    """Wait until somebody answers there."""
    with anyio.fail_after(READY_S):
        while True:
            try:
                await fetch(address, "bare")
            except Broken:
                await anyio.sleep(POLL_S)
            else:
                return
