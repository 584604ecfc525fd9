"""Which requests failed, as HAProxy tells: so that a visitor's ray id leads to what befell the worker.

HAProxy writes a line for a request that failed, none for any other. Promises that a flood of
failures costs this process next to nothing: it reads FAILURES_MAX of them every READ_S, and the
kernel throws away what does not fit its short queue.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio

READ_S = 0.1
FAILURES_MAX = 50
LINE_BYTES_MAX = 512
STATUS_MIN = 500


def parse(line: bytes) -> tuple[str, str] | None:
    """Return server and ray id of a request that failed; None for anything else. Pure."""
    words = line.decode("ascii", "replace").strip().rpartition("> ")[2].split()
    if len(words) != 3 or not words[0].isdigit() or int(words[0]) < STATUS_MIN:
        return None
    return words[1], words[2]


async def read_failures(path: Path, failed: Callable[[str, str], None]) -> None:
    """Listen where HAProxy writes, and tell of each failure (server, ray id), for ever."""
    with suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setblocking(False)
        listening.bind(str(path))
        path.chmod(0o600)
        while True:
            await anyio.wait_readable(listening)
            for _ in range(FAILURES_MAX):
                try:
                    line = listening.recv(LINE_BYTES_MAX)
                except BlockingIOError:
                    break
                found = parse(line)
                if found is not None:
                    failed(*found)
            await anyio.sleep(READ_S)
