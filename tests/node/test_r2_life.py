"""R2's two processes: started by the first request, killed, flat in memory; nothing acknowledged lost."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kythera.store.r2_hot import QUIET_S
from tests.node.r2_running import ENGINE, STORE, give_bucket, make_bucket, pids
from tests.platforms import RunningPlatform, running, start
from tests.processes import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
LARGE_BYTES = 192 * MIB
GROWN_BYTES_MAX = 48 * MIB


def put(platform: RunningPlatform, key: str, data: bytes) -> bool:
    """Put an object through the Worker; tell whether it was acknowledged."""
    return platform.get("cases", f"/{key}", method="PUT", content=data).status_code == 200


def peak_bytes(pid: int) -> int:
    """Return the most memory a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no peak")


def test_nothing_runs_until_somebody_asks(state: Path) -> None:
    """Goal: a bucket alone costs no process; the first request waits for both, and is answered."""
    with running(state) as platform:
        make_bucket(platform, "idle-bucket")
        assert pids(platform, STORE) == pids(platform, ENGINE) == []
        give_bucket(platform, "cases", "bucket-1")
        assert put(platform, "first", b"1")
        assert len(pids(platform, STORE)) == len(pids(platform, ENGINE)) == 1


def test_nothing_acknowledged_is_lost_when_anything_is_killed(state: Path) -> None:
    """Goal: kill -9 of the engine, of the store, of the whole platform, right after an answer."""
    acknowledged: dict[str, bytes] = {}

    def write(platform: RunningPlatform, name: str) -> None:
        for n in range(5):
            key, data = f"{name}-{n}", f"{name} {n}".encode() * 1000
            wait_until(lambda key=key, data=data: put(platform, key, data), "a put", deadline_s=30)  # type: ignore[misc]
            acknowledged[key] = data

    platform = start(state)
    give_bucket(platform, "cases", "bucket-1")
    for program in (ENGINE, STORE, ENGINE):
        write(platform, f"before-{len(acknowledged)}")
        (pid,) = pids(platform, program)
        os.kill(pid, signal.SIGKILL)
        write(platform, f"after-{len(acknowledged)}")
    platform.kill()
    with running(state) as again:
        for key, data in acknowledged.items():
            assert again.get("cases", f"/{key}").content == data, key


def test_a_large_object_passes_without_being_held_in_memory(state: Path) -> None:
    """Goal: memory does not follow size, neither in the store nor in what comes out again."""

    def body() -> Iterator[bytes]:
        for n in range(LARGE_BYTES // MIB):
            yield bytes([n % 256]) * MIB

    with running(state) as platform:
        give_bucket(platform, "cases", "bucket-1")
        assert put(platform, "small", b"1")
        (pid,) = pids(platform, STORE)
        before = peak_bytes(pid)
        headers = {"Content-Length": str(LARGE_BYTES)}
        made = platform.get("cases", "/large", method="PUT", content=body(), headers=headers)
        assert made.status_code == 200, platform.tail()
        got = platform.get("cases", "/large")
        assert len(got.content) == LARGE_BYTES
        assert got.content[-MIB:] == bytes([(LARGE_BYTES // MIB - 1) % 256]) * MIB
        assert peak_bytes(pid) - before < GROWN_BYTES_MAX


def test_a_short_object_is_answered_from_memory_until_it_is_written_again(state: Path) -> None:
    """Goal: what was just written needs no engine, and is never older than what was acknowledged."""
    with running(state) as platform:
        give_bucket(platform, "cases", "bucket-1")
        assert put(platform, "first", b"1")
        serves_since = time.monotonic()
        wait_until(lambda: time.monotonic() - serves_since > QUIET_S, "it keeps what it reads")
        assert put(platform, "short", b"one")
        (engine,) = pids(platform, ENGINE)
        os.kill(engine, signal.SIGSTOP)
        try:
            assert platform.get("cases", "/short").content == b"one"
        finally:
            os.kill(engine, signal.SIGCONT)
        for body in (b"two", b"three" * 100_000, b"four"):
            assert put(platform, "short", body)
            for _ in range(2):
                assert platform.get("cases", "/short").content == body
        assert platform.get("cases", "/short", method="DELETE").status_code == 200
        assert platform.get("cases", "/short").status_code == 404
