"""The log under faults that only a real nats-server has: kills, cuts, lost answers, late starts.

Method: a real server from the wheel, ended with SIGKILL or reached through a wire that a test cuts.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from kythera.distribute.address import LogAddress, read_log_address, write_address
from kythera.distribute.jetstream import JetStreamLog, open_log
from kythera.distribute.log import Entry
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from tests.distribute.servers import Server, serving
from tests.distribute.wires import wired

pytestmark = [pytest.mark.anyio, pytest.mark.real]
LIMITS = Limits(append_ms=8_000)
WAIT_S = 20
POLL_S = 0.005


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Return a running nats-server with an empty store."""
    async with serving(tmp_path / "state", LIMITS) as started:
        yield started


async def reached(level: Callable[[], int], least: int) -> None:
    """Wait until a number has grown."""
    with anyio.fail_after(WAIT_S):
        while True:
            if level() >= least:
                return
            await anyio.sleep(POLL_S)


class Follower:
    """Follows in the background and keeps all it saw."""

    def __init__(self) -> None:
        self.seen: list[Entry] = []
        self._more = anyio.Event()

    async def follow(self, log: JetStreamLog) -> None:
        """Follow from the start until cancelled."""
        async with contextlib.aclosing(log.follow(0)) as batches:
            async for batch in batches:
                self.seen += batch
                self._more.set()

    async def reached(self, seq: int) -> None:
        """Wait until a sequence number has been seen."""
        with anyio.fail_after(WAIT_S):
            while not self.seen or self.seen[-1].seq < seq:
                self._more = anyio.Event()
                await self._more.wait()


async def test_a_follower_goes_on_without_a_gap_after_the_server_was_killed(
    server: Server,
) -> None:
    """Kill -9 three times under a writer: every acknowledged record is seen, once, in order."""
    follower = Follower()
    written: dict[str, int] = {}
    async with open_log(server.layout.log_address, LIMITS) as log, anyio.create_task_group() as t:
        t.start_soon(follower.follow, log)

        async def write() -> None:
            for n in range(300):
                written[f"worker.a.w{n}"] = await log.append(f"worker.a.w{n}", b"%d" % n)

        async with anyio.create_task_group() as writing:
            writing.start_soon(write)
            for until in (50, 120, 200):
                await reached(written.__len__, until)
                await server.kill()
                await server.start()
        await follower.reached(max(written.values()))
        t.cancel_scope.cancel()
    assert [entry.seq for entry in follower.seen] == sorted(written.values())
    assert {entry.key: entry.seq for entry in follower.seen} == written


async def test_a_follower_that_slept_through_changes_sees_the_newest_and_the_ends(
    server: Server,
) -> None:
    """Cut off while keys are overwritten and ended: it resumes with their last entries only."""
    follower = Follower()
    async with open_log(server.address, LIMITS) as log, wired(server.address) as wire:
        for n in range(10):
            await log.append(f"worker.a.w{n}", b"old")
        async with open_log(wire.address, LIMITS) as far, anyio.create_task_group() as tasks:
            tasks.start_soon(follower.follow, far)
            await follower.reached(10)
            wire.swallow_answers = True
            wire.cut()
            for _ in range(3):
                for n in range(5):
                    await log.append(f"worker.a.w{n}", b"new")
            last = await log.append("worker.a.w9", None)
            wire.swallow_answers = False
            wire.cut()
            await follower.reached(last)
            tasks.cancel_scope.cancel()
    late = follower.seen[10:]
    assert [entry.key for entry in late] == [f"worker.a.w{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert [entry.value for entry in late] == [b"new"] * 5 + [None]


@pytest.mark.parametrize("overwritten", [False, True], ids=["alone", "overwritten since"])
async def test_a_lost_acknowledgement_is_neither_a_conflict_nor_a_second_write(
    server: Server, overwritten: bool
) -> None:
    """The write arrives, its answer does not, the connection breaks, the server even restarts:
    the append still returns the number under which it was written, once."""
    async with open_log(server.layout.log_address, LIMITS) as near, wired(server.address) as wire:
        async with open_log(wire.address, LIMITS) as far:
            before = await near.append("worker.a.w", b"0")
            wire.swallow_answers = True
            numbers: list[int] = []

            async def write() -> None:
                numbers.append(await far.append("worker.a.w", b"1", expected_seq=before))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                with anyio.fail_after(WAIT_S):
                    while True:
                        if await near.last_seq() > before:
                            break
                        await anyio.sleep(POLL_S)
                await server.kill()
                await server.start()
                assert server.address == wire.to
                if overwritten:
                    await near.append("worker.a.w", b"2")
                wire.swallow_answers = False
                wire.cut()
        assert numbers == [before + 1]
        assert await near.last_seq() == before + 1 + overwritten


async def test_a_write_that_was_given_up_does_not_happen_later(server: Server) -> None:
    """Nothing is buffered while the server is away: what was reported as failed stays unwritten."""
    short = Limits(append_ms=300)
    async with open_log(server.address, short) as log:
        await server.kill()
        with pytest.raises(StoreUnavailable, match=r"worker\.a\.w within 300 ms"):
            await log.append("worker.a.w", b"1")
        await server.start()
        with anyio.fail_after(WAIT_S):
            while True:
                try:
                    assert await log.last_seq() == 0
                    break
                except StoreUnavailable:
                    continue


async def test_a_server_that_hangs_is_waited_for(server: Server) -> None:
    """Stopped without closing anything and let go on: the append is acknowledged once."""
    async with open_log(server.address, LIMITS) as log:
        await log.append("worker.a.w", b"1")
        server.freeze(still=True)
        numbers: list[int] = []

        async def write() -> None:
            numbers.append(await log.append("worker.a.w", b"2"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            with anyio.move_on_after(3.0):  # longer than one attempt
                await anyio.sleep_forever()
            assert not numbers
            server.freeze(still=False)
        assert numbers == [2]
        assert await log.last_seq() == 2


async def test_a_client_waits_for_a_server_that_starts_later(tmp_path: Path) -> None:
    """Client first, address file and server half a second later: the client connects."""
    server = Server(tmp_path / "state", LIMITS)
    numbers: list[int] = []

    async def append() -> None:
        async with open_log(server.layout.log_address, LIMITS) as log:
            numbers.append(await log.append("worker.a.w", b"1"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(append)
        with anyio.move_on_after(0.3):
            await anyio.sleep_forever()
        await server.start()
    await server.kill()
    assert numbers == [1]


async def test_a_client_finds_the_server_on_another_port(tmp_path: Path) -> None:
    """With the address as a file, a server that had to move is found where it is now."""
    server = Server(tmp_path / "state", LIMITS)
    await server.start()
    async with open_log(server.layout.log_address, LIMITS) as log:
        assert await log.append("worker.a.w", b"1") == 1
        await server.kill()
        old = server.address
        port = int(old.url.rpartition(":")[2])
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port):
            await server.start()
            assert server.address.url != old.url
            assert await log.append("worker.a.w", b"2") == 2
    await server.kill()


async def test_a_log_that_never_appears_is_told_with_what_to_do(tmp_path: Path) -> None:
    """No address, then an address nobody listens at: an error that names it, within the deadline."""
    began = time.monotonic()
    missing = tmp_path / "log.json"
    with pytest.raises(StoreUnavailable, match=r"log\.json.*not been written yet.*agent"):
        async with open_log(missing, LIMITS, within_ms=200):
            raise AssertionError("nothing is there")
    with pytest.raises(StoreUnavailable, match=r"log\.json within 100 ms"):
        await read_log_address(missing, within_ms=100)
    nobody = LogAddress(url="nats://127.0.0.1:9", user="u", password="p")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9 was not .* Connect call failed"):
        async with open_log(nobody, LIMITS, within_ms=200):
            raise AssertionError("nothing is there")
    assert time.monotonic() - began < 3


async def test_a_wrong_password_is_told(server: Server) -> None:
    """The deadline's error carries the server's own words, and no password."""
    wrong = LogAddress(url=server.address.url, user=server.address.user, password="x" * 30)
    with pytest.raises(StoreUnavailable, match="Authorization Violation") as caught:
        async with open_log(wrong, LIMITS, within_ms=1_000):
            raise AssertionError("the door should be shut")
    assert "xxx" not in str(caught.value) + repr(wrong)


async def test_an_error_inside_the_block_comes_out_as_itself(server: Server) -> None:
    """What a user of `open_log` raises is not wrapped into a group of errors."""
    with pytest.raises(ZeroDivisionError):
        async with open_log(server.address, LIMITS):
            _ = 1 / 0


async def test_an_address_file_is_read_back_and_private(tmp_path: Path) -> None:
    """Written 0600, read equal; half a file counts as none."""
    path = tmp_path / "log.json"
    address = LogAddress(url="nats://127.0.0.1:1", user="u", password="secret")
    write_address(path, address)
    assert path.stat().st_mode & 0o777 == 0o600
    assert await read_log_address(path) == address
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreUnavailable):
        await read_log_address(path, within_ms=50)


async def test_what_happens_to_the_connection_is_told_as_events(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """A kill and a return: named events with their reasons, and not a stray word."""
    follower = Follower()
    with capture_logs() as events:
        async with open_log(server.layout.log_address, LIMITS) as log:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follower.follow, log)
                await follower.reached(await log.append("worker.a.w", b"1"))
                await server.kill()
                await server.start()
                await follower.reached(await log.append("worker.a.w", b"2"))
                tasks.cancel_scope.cancel()
    told = [event["event"] for event in events if event["log_level"] != "debug"]
    assert told.count("log_connected") == 2
    assert told.count("log_connection_lost") == 1
    assert "log_feed_reopened" in told
    assert capfd.readouterr().out == ""
