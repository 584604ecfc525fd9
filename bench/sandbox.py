"""What the sandbox costs: start, memory and CPU of a cell inside it and of the same cell without.

Both kinds in turn, so that whatever else the machine does meets both; CPU is read from the
process's own clock, which other load on the machine hardly moves.
"""

import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from bench.client import Address, fetch
from bench.figures import Figure, median
from bench.wrk import wrk
from kythera.ground import meters
from kythera.ground.processes import Child, child
from kythera.ground.sockets import close_all
from kythera.model.limits import Limits
from kythera.model.platform import Isolation
from kythera.node.isolation import asked
from kythera.run.config import hello_config
from kythera.run.sandbox import ShutIn, confine
from kythera.run.workerd import find_workerd, hold_binary, workerd_argv

STARTS = 30
ROUNDS = 8
ROUND_S = 2.0
CONNECTIONS = 32
SETTLE_S = 0.3
START_MS_MAX = 80.0
MORE_MIB_MAX = 3.0
CPU_RATIO_MAX = 1.03
MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """A running hello cell."""

    address: Address
    process: Child
    started_ms: float

    @property
    def private_mib(self) -> float:
        """Its own memory, and that of bubblewrap, which waits for its end."""
        pids = {self.process.pid, self.process.working_pid}
        return sum(meters.private_bytes(pid) for pid in pids) / MIB


@asynccontextmanager
async def cell(isolation: Isolation) -> AsyncIterator[Cell]:
    """Run a hello cell; it has answered once when the block begins."""
    control, theirs = os.pipe()
    given = [theirs]
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        number = str(listening.fileno())
        if isolation.seccomp:
            given.append(os.open(isolation.seccomp, os.O_RDONLY))
        info = os.dup(theirs)
        given.append(info)
        shut = confine(
            ShutIn(
                program=find_workerd(),
                arguments=workerd_argv({"http": number}, str(theirs)),
                account="bench",
                memory_mib=Limits().heap_mib_max,
            ),
            isolation,
            Limits(),
            info=str(info),
            seccomp=str(given[1]),
        )
        try:
            began = time.monotonic()
            async with child(
                shut.argv,
                env={},
                pass_fds=[listening.fileno(), *given],
                stdin=hello_config(),
                rlimits=shut.rlimits,
                uid=shut.uid,
                stage=shut.stage,
                capture=False,
            ) as process:
                answer = await fetch(listening.getsockname(), "hello")
                took_ms = (time.monotonic() - began) * 1000
                assert answer.body == b"hello", answer
                process.look_inside(os.read(control, 4096))
                yield Cell(listening.getsockname(), process, took_ms)
        finally:
            close_all([control, *given])


async def run() -> list[Figure]:
    """Measure starts and memory, then CPU a request, each kind in turn."""
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as folder:
        whole = asked(Path(folder, "seccomp.bpf"), Limits())
        if whole.weaker:
            raise RuntimeError("this host's sandbox is not whole: " + " ".join(whole.weaker))
        with hold_binary(find_workerd()):
            starts, memory = await _starts(whole)
            ratios = await _throughput(whole)
    bare_ms, shut_ms = (median(times) for times in starts)
    more = [shut - bare for bare, shut in zip(*memory, strict=True)]
    return [
        Figure(
            bench="sandbox",
            name="sandboxed cell, from its start to its first answer, median",
            value=shut_ms,
            unit="ms",
            target=START_MS_MAX,
            note=f"of {STARTS}; the same cell without a sandbox: {bare_ms:.0f} ms",
        ),
        Figure(
            bench="sandbox",
            name="private memory more than without, median",
            value=median(more),
            unit="MiB",
            target=MORE_MIB_MAX,
            note=f"{median(memory[1]):.1f} and {median(memory[0]):.1f} MiB, bubblewrap's included",
        ),
        Figure(
            bench="sandbox",
            name="CPU a request, sandboxed / bare, median of rounds",
            value=median(ratios),
            unit="times",
            target=CPU_RATIO_MAX,
            note=f"{ROUNDS} rounds, {min(ratios):.2f} to {max(ratios):.2f}",
        ),
    ]


async def _starts(whole: Isolation) -> tuple[tuple[list[float], ...], tuple[list[float], ...]]:
    times: tuple[list[float], ...] = ([], [])
    memory: tuple[list[float], ...] = ([], [])
    for _ in range(STARTS):
        for kind, isolation in enumerate((Isolation(), whole)):
            async with cell(isolation) as made:
                times[kind].append(made.started_ms)
                await anyio.sleep(SETTLE_S)
                memory[kind].append(made.private_mib)
    return times, memory


async def _throughput(whole: Isolation) -> list[float]:
    # As much memory for both: with RLIMIT_DATA and without, V8 collects alike.
    async with cell(Isolation()) as bare, cell(whole) as shut:
        for one in (bare, shut):
            await _cost(one)
        ratios = []
        for number in range(ROUNDS):
            first, second = (bare, shut) if number % 2 else (shut, bare)
            cost = {id(first): await _cost(first)}
            cost[id(second)] = await _cost(second)
            ratios.append(cost[id(shut)] / cost[id(bare)])
        return ratios


async def _cost(one: Cell) -> float:
    before = one.process.cpu_seconds()
    done = await wrk(one.address, "hello", seconds=ROUND_S, connections=CONNECTIONS)
    assert done.failures == 0, done
    return (one.process.cpu_seconds() - before) / done.requests
