"""A silent connection to a busy process spares it a system call for each request."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.bare import bare_workerd
from kythera.node.held_connections import LINGER_S, RENEW_S, HeldConnections

WAITS = "export default { async fetch(request) { return new Response(await request.text()); } };"
HEAD = b"POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: 2\r\n\r\n"
REQUESTS = 15


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen there; nobody waits for a connection that is not to come."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)
        server.setblocking(False)
        yield server


def test_there_is_always_one_while_a_process_is_busy(tmp_path: Path) -> None:
    """Goal: renewed before the old one goes, closed when the process stays quiet, none to one that ended."""
    held = HeldConnections()
    path = tmp_path / "s"
    with listening(path) as server, ExitStack() as opened:
        held.hold({7: str(path)}, 0.0)
        first = opened.enter_context(server.accept()[0])
        held.hold({7: str(path)}, RENEW_S - 1)
        with pytest.raises(BlockingIOError):
            server.accept()
        held.hold({7: str(path)}, RENEW_S)
        second = opened.enter_context(server.accept()[0])
        assert first.recv(1) == b""
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.recv(1)
        held.hold({8: str(tmp_path / "gone")}, RENEW_S + LINGER_S - 1)
        with pytest.raises(BlockingIOError):
            second.recv(1)
        held.hold({}, RENEW_S + LINGER_S)
        second.setblocking(True)
        assert second.recv(1) == b""
    held.close()


def writes(pid: int) -> int:
    """Return how many times a process has called write and its like (proc(5), io)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscw"])


@pytest.mark.real
@pytest.mark.anyio
async def test_it_spares_a_write_for_each_request(tmp_path: Path) -> None:
    """Method: requests whose bodies come late, so that no timer is pending while they are answered."""
    async with bare_workerd(tmp_path / "bare", WAITS, 1) as bare:
        (pid,) = bare.pids

        def asked() -> float:
            with socket.create_connection(bare.address) as client:
                before = writes(pid)
                for _ in range(REQUESTS):
                    client.sendall(HEAD)
                    client.sendall(b"ok")
                    assert client.recv(4096).endswith(b"ok")
                return (writes(pid) - before) / REQUESTS

        alone = asked()
        with socket.create_connection(bare.address):
            beside = asked()
    assert alone - beside > 0.8
