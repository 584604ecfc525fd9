"""What HAProxy tells of requests that failed: read, bounded, and never the agent's end."""

import socket
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.node.front_log import LINE_BYTES_MAX, parse, read_failures


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"503 c0123456789ab 0123456789abcdef-local", ("c0123456789ab", "0123456789abcdef-local")),
        (b"<134> 502 c1 r1\n", ("c1", "r1")),
        (b"200 c1 r1", None),
        (b"503 c1", None),
        (b"", None),
        (b"\xff\xfe 503", None),
    ],
)
def test_a_line_is_a_failure_or_nothing(line: bytes, found: tuple[str, str] | None) -> None:
    """Goal: retries that went well in the end are no failures."""
    assert parse(line) == found


@given(st.binary(max_size=LINE_BYTES_MAX))
def test_no_line_is_the_end_of_the_reader(line: bytes) -> None:
    """Goal: whatever comes, nothing is raised."""
    parse(line)


@pytest.mark.anyio
async def test_failures_are_told_as_they_come(tmp_path: Path) -> None:
    """Goal: a socket that an earlier agent left is replaced; each line is told once."""
    path = tmp_path / "log.sock"
    path.touch()
    told: list[tuple[str, str]] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_failures, path, lambda server, ray: told.append((server, ray)))
        with anyio.fail_after(5):
            while not path.is_socket():
                await anyio.sleep(0.001)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(path))
            for number in range(3):
                sender.send(f"503 c{number} r{number}".encode())
            sender.send(b"200 c9 r9")
        with anyio.fail_after(5):
            while len(told) < 3:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert told == [("c0", "r0"), ("c1", "r1"), ("c2", "r2")]
