"""Under systemd: what it is told, what it keeps for us, and what is taken back from it.

The test plays systemd: it listens where NOTIFY_SOCKET points and keeps the descriptors it gets.
"""

import configparser
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from kythera.ground.processes import read_some
from kythera.ground.sockets import close_all, parse_address, receive_message
from kythera.model.limits import Limits
from kythera.node.keeper_client import connect_keeper
from kythera.node.systemd import Notifier, inherited, notifier
from tests.node.keepers import RunningKeeper, running

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "kythera.service"
AS_SYSTEMD = """
import fcntl, os, sys
count = int(sys.argv[1])
given = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 100) for word in sys.argv[2 : 2 + count]]
for number, descriptor in enumerate(given, 3):
    os.dup2(descriptor, number)
os.environ |= {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""
SERVE = """
import socket
listener = socket.socket(fileno=int("{socket:cell:a}"))
listener.setblocking(True)
listener.accept()[0].sendall(b"served")
"""


class FakeSystemd:
    """Listens for notifications and keeps what it is given to keep."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("")  # a name of its own, in no folder
        self._socket.settimeout(20)
        self.address = "@" + self._socket.getsockname()[1:].decode()
        self.kept: dict[str, int] = {}
        self.heard: list[str] = []

    def hear_until(self, text: str) -> None:
        """Take notifications in, until one says `text`."""
        while not any(text in heard for heard in self.heard):
            data, descriptors = receive_message(self._socket)
            self._take_in(data.decode(), descriptors)

    def _take_in(self, text: str, descriptors: list[int]) -> None:
        self.heard.append(text)
        fields = dict(line.split("=", 1) for line in text.splitlines())
        if "FDSTORE" in fields:
            (self.kept[fields["FDNAME"]],) = descriptors
        if "FDSTOREREMOVE" in fields:
            close_all([self.kept.pop(fields["FDNAME"], -1)])

    def close(self) -> None:
        """Let go of everything."""
        close_all(self.kept.values())
        self._socket.close()


@pytest.fixture
def systemd() -> Iterator[FakeSystemd]:
    """Return a systemd that is the test."""
    fake = FakeSystemd()
    yield fake
    fake.close()


@contextmanager
def as_service(state: Path, systemd: FakeSystemd, **env: str) -> Iterator[RunningKeeper]:
    """Run a keeper as systemd would: with all that is kept, and a socket to notify."""
    descriptors = list(systemd.kept.values())
    shim = [sys.executable, "-c", AS_SYSTEMD, str(len(descriptors)), *map(str, descriptors)]
    told = {"NOTIFY_SOCKET": systemd.address, "LISTEN_FDNAMES": ":".join(systemd.kept), **env}
    with running(state, argv=shim, pass_fds=descriptors, env=told) as keeper:
        yield keeper


async def be_the_first_agent(keeper: RunningKeeper) -> None:
    """Listen for two cells, let one go, and be ready."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        await client.listen("cell:a", keeper.layout.cells / "a.sock")
        await client.listen("cell:b", keeper.layout.cells / "b.sock")
        await client.close("cell:b")
        await client.announce({})


async def be_the_next_agent(keeper: RunningKeeper) -> None:
    """Serve the visitor who waits on the adopted socket."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        path = keeper.layout.cells / "a.sock"
        assert await client.listen("cell:a", path) == client.sockets["cell:a"]
        held = await client.spawn("one", [sys.executable, "-c", SERVE], env={})
        assert held.output is not None
        with anyio.fail_after(20):
            assert await read_some(held.output) == b""
        close_all([held.output])


@pytest.mark.real
def test_systemd_keeps_the_sockets_when_the_keeper_is_killed(
    state: Path, systemd: FakeSystemd
) -> None:
    """Goal: not one connection refused. Method: kill the keeper; connect to what systemd holds;
    start the next keeper with it; the visitor is served."""
    with as_service(state, systemd) as first:
        anyio.run(be_the_first_agent, first)
        systemd.hear_until("READY=1")
        assert set(systemd.kept) == {"http", "api", "mesh", "tail", "peers", "cell|a"}
        assert "FDSTOREREMOVE=1\nFDNAME=cell|b" in systemd.heard
        before = first.platform
        first.kill()
    with (
        socket.socket(socket.AF_UNIX) as visitor,
        socket.create_connection(parse_address(before.http), 20),
    ):
        visitor.connect(str(first.layout.cells / "a.sock"))
        visitor.settimeout(20)
        with as_service(state, systemd) as second:
            assert (second.platform.http, second.platform.api) == (before.http, before.api)
            anyio.run(be_the_next_agent, second)
            assert visitor.recv(100) == b"served"
            assert second.stop() == 0
        systemd.hear_until("STOPPING=1")


@pytest.mark.real
def test_the_watchdog_is_fed(state: Path, systemd: FakeSystemd) -> None:
    """Goal: systemd sees that the keeper's loop turns. Method: a short watchdog; hear twice."""
    with as_service(state, systemd, WATCHDOG_USEC="100000"):
        systemd.hear_until("WATCHDOG=1")
        systemd.heard.clear()
        systemd.hear_until("WATCHDOG=1")


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    """Goal: an inherited environment does no harm. Method: another pid; none; no number."""
    for owner, count in (("1", "2"), ("", ""), (str(os.getpid()), "x")):
        environ = {"LISTEN_PID": owner, "LISTEN_FDS": count, "LISTEN_FDNAMES": "a:b", "X": "1"}
        assert inherited(environ) == {}
        assert environ == {"X": "1"}


def test_a_notifier_without_systemd_says_nothing() -> None:
    """Goal: the same code with and without. Method: no variable; and a socket that is gone."""
    silent = notifier({})
    assert silent.watchdog_s is None
    for one in (silent, Notifier("/no/such/socket"), Notifier("@no-such-socket")):
        one.ready("up")
        one.keep("http", 0)
        one.drop("http")
        one.alive()
        one.stopping()
        one.close()


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    """Goal: WATCHDOG_PID holds. Method: ours, another's, and no number."""
    us = str(os.getpid())
    assert notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": us}).watchdog_s == 2.0
    assert notifier({"WATCHDOG_USEC": "2000000"}).watchdog_s == 2.0
    assert notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert notifier({"WATCHDOG_USEC": "x"}).watchdog_s is None


def unit() -> configparser.SectionProxy:
    """Return the unit's service section."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_fits_the_keepers_limits() -> None:
    """Goal: systemd neither kills a stop too soon nor runs out of places. Method: compare."""
    service = unit()
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert service["OOMPolicy"] == "continue"
    stop_s = Limits().stop_ms / 1000
    assert stop_s < int(service["TimeoutStopSec"]) <= 2 * stop_s
    assert int(service["FileDescriptorStoreMax"]) < int(service["LimitNOFILE"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """Goal: it can be installed as it is. Method: systemd-analyze, with a program that exists."""
    text = UNIT.read_text()
    command = unit()["ExecStart"].split()[0]
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(f"ExecStart={command}", f"ExecStart={sys.executable}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
