"""Records on many machines: lag, order and gaps under steady writes, and joining by a snapshot.

A real nats-server, real LMDB copies, in each of two sites one relay and many followers; the mesh's
TLS is left out (unix sockets in its place). All of it shares this machine's cores: a fleet's
followers have cores of their own, so the lag here is an upper bound.

`python -m bench.records --followers 10 --seconds 5 --records 5000` runs a small one.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import structlog
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from bench.figures import Figure, percentile, table
from bench.records_host import WRITTEN, Config, NotedCopy, Seen, UnixCaller, stamp
from kythera.distribute.address import LogAddress
from kythera.distribute.direct import Followed
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry
from kythera.distribute.nats_server import prepare
from kythera.distribute.relay import RelayLog
from kythera.distribute.snapshot import take_snapshot
from kythera.distribute.sources import standing
from kythera.ground.layout import Layout
from kythera.ground.processes import child
from kythera.model.limits import Limits
from kythera.model.records import Heartbeat, encode

SITES = 2
HOSTS_PER_SITE = 1
WRITES_PER_S = 350
VALUE_BYTES = 300
LAG_MS_MAX = 1_000.0
JOIN_S_MAX = 30.0
WAIT_S = 120.0
LINE_BYTES_MAX = 256 * 1024 * 1024
FILLERS = 256
LIMITS = Limits()


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How large a run is."""

    followers: int = 100
    """Besides the relays."""
    seconds: float = 60.0
    records: int = 100_000


async def run(size: Size | None = None) -> list[Figure]:
    """Measure both parts, each with a server of its own."""
    size = size or Size()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as name:
        async with served(Path(name) / "lag") as address:
            figures = await lag(Path(name), address, size)
    with tempfile.TemporaryDirectory(prefix="kythera-bench-") as name:
        async with served(Path(name) / "join") as address:
            return figures + await join(Path(name), address, size)


@asynccontextmanager
async def served(state: Path) -> AsyncIterator[LogAddress]:
    """Run a nats-server as a core machine does: every write synced."""
    argv, address = prepare(Layout(state), LIMITS)
    with (state / "nats.log").open("wb") as log:
        async with child(argv, capture=False, log=log.fileno()) as server:
            try:
                yield address
            finally:
                os.kill(server.pid, signal.SIGKILL)
                await server.wait()


class Host:
    """A process of `bench.records_host`."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._output = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> bytes:
        """Return the next line it prints."""
        with anyio.fail_after(WAIT_S):
            return await self._output.receive_until(b"\n", LINE_BYTES_MAX)

    async def end(self, seq: int) -> None:
        """Tell it to end once it has a sequence; what it prints then is still to be read."""
        assert self._process.stdin is not None
        await self._process.stdin.send(str(seq).encode())
        await self._process.stdin.aclose()


@asynccontextmanager
async def host(config: Config, path: Path) -> AsyncIterator[Host]:
    """Run a host for the length of the block."""
    path.write_bytes(msgspec.json.encode(config))
    command = ["-m", "bench.records_host", str(path)]
    async with await anyio.open_process([sys.executable, *command], stderr=None) as process:
        try:
            yield Host(process)
        finally:
            if process.returncode is None:
                process.kill()


def sites(size: Size) -> list[list[str]]:
    """Return the machines of each site, the one that will be its relay first."""
    each = size.followers // SITES + 1
    made = [[f"s{site}m{n}" for n in range(each)] for site in range(SITES)]
    return [sorted(names, key=standing) for names in made]


def config_of(folder: Path, relay: str, names: list[str]) -> Config:
    """Return the settings that all hosts of a site share."""
    socket = str(folder / f"{relay}.sock")
    return Config(folder=str(folder), site=names, names=[], relay=names[0], socket=socket)


# -- lag ---------------------------------------------------------------------------------------------


async def lag(folder: Path, address: LogAddress, size: Size) -> list[Figure]:
    """Write steadily for a while; ask every follower what it saw and when."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(address, LIMITS))
        await log.append("account.bench", b"x")
        followers = []
        for number, names in enumerate(sites(size)):
            base = config_of(folder, f"relay{number}", names)
            relay = msgspec.structs.replace(base, names=names[:1], log=address)
            started = await stack.enter_async_context(host(relay, folder / f"relay{number}.json"))
            assert await started.line() == b"ready"
            for part in range(HOSTS_PER_SITE):
                config = msgspec.structs.replace(base, names=names[1:][part::HOSTS_PER_SITE])
                path = folder / f"host{number}-{part}.json"
                followers.append(await stack.enter_async_context(host(config, path)))
        for follower in followers:
            assert await follower.line() == b"ready"
        written = await write(log, size)
        last, seen = await log.last_seq(), []
        for follower, count in zip(followers, _counts(size), strict=True):
            await follower.end(last)
            lines = [await follower.line() for _ in range(count)]
            seen += [msgspec.json.decode(line, type=Seen) for line in lines]
        return lag_figures(size, written, seen)


def _counts(size: Size) -> list[int]:
    each = size.followers // SITES
    of_site = [len(range(part, each, HOSTS_PER_SITE)) for part in range(HOSTS_PER_SITE)]
    return of_site * SITES


class Written(msgspec.Struct, kw_only=True):
    """What was written: the records' numbers, and how long each took to be acknowledged."""

    seqs: list[int]
    acknowledged_ms: list[float]
    seconds: float


async def write(log: JetStreamLog, size: Size) -> Written:
    """Write `WRITES_PER_S` records each second, each with its time, and a heartbeat each second."""
    written = Written(seqs=[], acknowledged_ms=[], seconds=0.0)
    began = time.monotonic()
    count = round(size.seconds * WRITES_PER_S)

    async def one(number: int) -> None:
        value = stamp() + b"x" * (VALUE_BYTES - len(stamp()))
        sent = time.monotonic()
        written.seqs.append(await log.append(f"{WRITTEN}w{number}", value))
        written.acknowledged_ms.append((time.monotonic() - sent) * 1000)

    async def beat(number: int) -> None:
        heart = Heartbeat(machine="core", number=number, at_ms=round(time.time() * 1000))
        await log.append(heart.key(), encode(heart))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            await anyio.sleep(max(0.0, began + number / WRITES_PER_S - time.monotonic()))
            tasks.start_soon(one, number)
            if number % WRITES_PER_S == 0:
                tasks.start_soon(beat, number)
    written.seconds = time.monotonic() - began
    written.seqs.sort()
    return written


def lag_figures(size: Size, written: Written, seen: list[Seen]) -> list[Figure]:
    """Judge what the followers saw."""
    lags = [lag for follower in seen for lag in follower.lags_ms]
    missed = sum(len(set(written.seqs) - set(follower.seqs)) for follower in seen)
    disordered = sum(follower.seqs != sorted(set(follower.seqs)) for follower in seen)
    unequal = len({follower.digest for follower in seen}) - 1
    left = max(follower.left_relay for follower in seen)
    rate = len(written.seqs) / written.seconds
    about = f"{len(seen)} followers, {SITES} sites, {rate:.0f} writes/s for {written.seconds:.0f} s"
    worst = max(percentile(follower.lags_ms, 0.99) for follower in seen)

    def figure(name: str, value: float, unit: str, target: float | None, note: str = "") -> Figure:
        return Figure(bench="records", name=name, value=value, unit=unit, target=target, note=note)

    return [
        figure(
            "write to durable on a follower, p99", percentile(lags, 0.99), "ms", LAG_MS_MAX, about
        ),
        figure("the same, median", percentile(lags, 0.5), "ms", None),
        figure("the same, p99 of the slowest follower", worst, "ms", None),
        figure("write to acknowledged, p99", percentile(written.acknowledged_ms, 0.99), "ms", None),
        figure("records that a follower missed", missed, "", 0),
        figure("followers that saw another order", disordered, "", 0),
        figure("copies that differ", unequal, "", 0),
        figure("times a follower left its relay", left, "", None),
    ]


# -- join --------------------------------------------------------------------------------------------


async def join(folder: Path, address: LogAddress, size: Size) -> list[Figure]:
    """Fill a log and a relay; then let a new follower, and one with an old copy, catch up."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(address, LIMITS))
        await fill(log, size.records)
        names = sites(msgspec.structs.replace(size, followers=4))[0]
        base = config_of(folder, "relay", names)
        relay = msgspec.structs.replace(base, names=names[:1], log=address)
        began = time.monotonic()
        started = await stack.enter_async_context(host(relay, folder / "relay.json"))
        assert await started.line() == b"ready"
        direct_s = time.monotonic() - began
        config = msgspec.structs.replace(base, names=names[1:2])
        began = time.monotonic()
        follower = await stack.enter_async_context(host(config, folder / "host.json"))
        assert await follower.line() == b"ready"
        joined_s = time.monotonic() - began
        caller = UnixCaller(base.socket)
        stack.push_async_callback(caller.client.aclose)
        source = RelayLog(caller, names[0], "", LIMITS)
        swapped_s = await swap(folder, source, size.records)
        return [
            _join_figure(size, "a new follower, from its start until whole, by a relay", joined_s),
            _join_figure(size, "the same, from the log itself", direct_s),
            _join_figure(size, "a snapshot in the place of an old copy, by a relay", swapped_s),
        ]


def _join_figure(size: Size, name: str, value: float) -> Figure:
    note = f"{size.records:,} records of {VALUE_BYTES} bytes"
    return Figure(bench="records", name=name, value=value, unit="s", target=JOIN_S_MAX, note=note)


async def fill(log: JetStreamLog, count: int) -> None:
    """Write many records, many at a time."""
    async with anyio.create_task_group() as tasks:
        for first in range(FILLERS):

            async def some(first: int = first) -> None:
                for number in range(first, count, FILLERS):
                    await log.append(f"{WRITTEN}w{number}", stamp().ljust(VALUE_BYTES, b"x"))

            tasks.start_soon(some)


async def swap(folder: Path, source: Followed, count: int) -> float:
    """Take a snapshot over a copy that holds other records; return the seconds."""
    with NotedCopy(folder / "old") as copy:
        copy.apply([Entry(n, f"worker.a.w{n}", stamp()) for n in range(1, count // 100)])
        began = time.monotonic()
        await take_snapshot(source, copy, lambda _: None)
        seconds = time.monotonic() - began
        assert copy.applied_seq() >= count
        assert copy.get("worker.a.w1") is None, "the old records are still there"
        return seconds


def main() -> None:
    """Run with other numbers, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.records", description=__doc__)
    parser.add_argument("--followers", type=int, default=Size().followers)
    parser.add_argument("--seconds", type=float, default=Size().seconds)
    parser.add_argument("--records", type=int, default=Size().records)
    print(table(anyio.run(run, Size(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
