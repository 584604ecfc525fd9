"""Those who wait for a cell that does not start are told so."""

import socket
from pathlib import Path

import anyio
import pytest

from kythera.run.refusal import answer_waiting

ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.anyio
async def test_everybody_who_waits_gets_the_answer(tmp_path: Path) -> None:
    """The answer arrives although the request was never read before it was sent."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    visitors = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for visitor in visitors:
        visitor.connect(path)
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        visitor.settimeout(5)
    counted = 0

    async def refuse() -> None:
        nonlocal counted
        counted = await answer_waiting(listener, ANSWER)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refuse)
        for visitor in visitors:
            answer = await anyio.to_thread.run_sync(visitor.recv, 4096)
            assert answer == ANSWER
            visitor.close()
    assert counted == 3
