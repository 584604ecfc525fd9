"""A real keeper, with the test itself as its agent: what is held, told, handed over and refused."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from kythera.ground.processes import read_some
from kythera.ground.sockets import close_all, parse_address
from kythera.node.keeper_client import (
    Exited,
    HeldProcess,
    KeeperClient,
    KeeperRefusal,
    Ready,
    connect_keeper,
)
from tests.node.keepers import RunningKeeper, running
from tests.processes import births

pytestmark = [pytest.mark.anyio, pytest.mark.real]
PATH = {"PATH": os.environ["PATH"]}
SAY_LISTEN = """echo '{"event":"listen","socket":"http","port":0}' >&{control}; exec sleep 1000"""
SERVE = """
import socket
listener = socket.socket(fileno=int("{socket:cell:a}"))
listener.setblocking(True)
listener.accept()[0].sendall(b"served")
"""

STARTS_SLOWLY = """
import os, signal, time
print("begun", flush=True)
time.sleep(0.3)
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
os.write({control}, b'{"event":"listen","socket":"http","port":0}\\n')
time.sleep(1000)
"""
SANDBOX = "bwrap --unshare-pid --as-pid-1 --die-with-parent --dev-bind / / --info-fd {info}".split()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[RunningKeeper]:
    """Return a keeper whose agent is the test."""
    with running(tmp_path / "state") as started:
        yield started


@pytest.fixture
async def client(keeper: RunningKeeper) -> AsyncIterator[KeeperClient]:
    """Return the test's connection as the agent."""
    async with connect_keeper(keeper.layout.keeper_socket) as connected:
        yield connected


async def output_of(held: HeldProcess) -> bytes:
    """Read a child's output to its end, and close it."""
    assert held.output is not None
    kept = b""
    with anyio.fail_after(20):
        while chunk := await read_some(held.output):
            kept += chunk
    close_all([held.output])
    return kept


async def next_event(client: KeeperClient) -> Ready | Exited:
    """Return the next event, within a deadline."""
    with anyio.fail_after(20):
        return await client.events.receive()


async def test_the_agent_is_told_of_doors_and_tail_at_connect(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: sockets held from the start. Method: connect; the descriptors are the doors."""
    assert set(client.sockets) == {"http", "api", "mesh", "tail", "peers"}
    assert client.processes == {}
    with socket.socket(fileno=os.dup(client.sockets["http"])) as door:
        assert door.getsockname() == parse_address(keeper.platform.http)


async def test_a_socket_is_listened_on_once_and_unlinked_when_closed(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: idempotent by name. Method: listen twice, elsewhere, visit, close twice."""
    path = keeper.layout.cells / "c1.sock"
    descriptor = await client.listen("cell:a", path)
    assert await client.listen("cell:a", path) == descriptor
    with pytest.raises(KeeperRefusal, match="not on"):
        await client.listen("cell:a", keeper.layout.cells / "other.sock")
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(path))
    await client.close("cell:a")
    await client.close("cell:a")
    assert "cell:a" not in client.sockets
    assert not path.exists()


async def held_by(keeper: RunningKeeper, client: KeeperClient) -> int:
    """Return how many descriptors the keeper has when it is done with the last request."""
    await client.signal("nobody", signal.SIGTERM)
    return len(list(Path(f"/proc/{keeper.pid}/fd").iterdir()))


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("bad name", "/x.sock", "bad name"),
        ("a", "relative.sock", "bad name or path"),
        ("a", "/" + "x" * 200, "too long"),
        ("a", "/no-such-folder/x.sock", "No such file"),
    ],
)
async def test_a_socket_that_cannot_be_is_refused_with_the_reason(
    client: KeeperClient, name: str, path: str, text: str
) -> None:
    """Goal: the agent goes on after a refusal. Method: bad names and paths."""
    with pytest.raises(KeeperRefusal, match=text):
        await client.listen(name, path)
    with pytest.raises(KeeperRefusal, match="as long as the platform"):
        await client.close("http")


async def test_a_child_says_that_it_listens_and_later_how_it_ended(client: KeeperClient) -> None:
    """Goal: Ready, then Exited, and `processes` follows. Method: a control pipe; SIGKILL."""
    held = await client.spawn("one", ["sh", "-c", SAY_LISTEN], env=PATH, control=True)
    assert await next_event(client) == Ready("one", held.pid)
    assert client.processes["one"].ready
    await client.signal("one", signal.SIGKILL)
    assert await next_event(client) == Exited("one", held.pid, -signal.SIGKILL)
    assert client.processes == {}
    await client.signal("one", signal.SIGKILL)
    assert await output_of(held) == b""


async def test_a_child_in_a_sandbox_that_is_told_to_end_while_it_starts_ends(
    client: KeeperClient,
) -> None:
    """Goal: no SIGTERM is lost to a process that has no handler yet, the first of its namespace."""
    held = await client.spawn(
        "one", [*SANDBOX, sys.executable, "-c", STARTS_SLOWLY], env=PATH, control=True
    )
    assert held.output is not None
    assert await read_some(held.output) == b"begun\n"
    await client.signal("one", signal.SIGTERM)
    assert isinstance(await next_event(client), Ready)
    ended = await next_event(client)
    assert isinstance(ended, Exited)
    assert ended.status == 7
    close_all([held.output])


async def test_a_child_has_its_input_environment_limits_and_no_stray_descriptor(
    client: KeeperClient,
) -> None:
    """Goal: exactly what was asked. Method: a child that tells all of it, and exits with 3."""
    script = (
        "import os,sys; print(sys.stdin.read(), os.environ.get('A'), os.listdir('/proc/self/fd'))"
    )
    held = await client.spawn(
        "one",
        [sys.executable, "-c", script + "; print(os.getsid(0)); sys.exit(3)"],
        env={"A": "{socket:http}", **PATH},
        stdin=b"config",
        rlimits={"RLIMIT_CORE": 0},
    )
    told = (await output_of(held)).decode()
    assert told.startswith("config 3 ['0', '1', '2', '3', '4']")
    assert f"\n{held.pid}\n" in told  # a session of its own: a terminal's Ctrl-C stays outside
    assert await next_event(client) == Exited("one", held.pid, 3)


async def test_what_cannot_be_started_is_refused_and_leaves_nothing(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: a refusal costs nothing. Method: no program, no socket, no control, taken name."""
    held = await client.spawn("taken", ["sleep", "1000"], env=PATH)
    descriptors = await held_by(keeper, client)
    for name, argv, text in [
        ("one", ["no-such-program"], "no such program"),
        ("one", ["sleep", "{socket:none}"], "no socket named"),
        ("one", ["sleep", "{control}"], "control=True"),
        ("one", [], "empty argv"),
        ("taken", ["sleep", "1"], "taken"),
        ("one", ["x" * 200_000], "fit"),
    ]:
        with pytest.raises(KeeperRefusal, match=text):
            await client.spawn(name, argv, env=PATH, stdin=b"x")
    assert await held_by(keeper, client) == descriptors
    close_all([held.output or -1])


async def test_a_visitor_who_came_before_the_process_is_served(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: socket activation. Method: connect first, spawn then, read the answer."""
    path = keeper.layout.cells / "c1.sock"
    await client.listen("cell:a", path)
    async with await anyio.connect_unix(path) as visitor:
        held = await client.spawn("one", [sys.executable, "-c", SERVE], env=PATH)
        with anyio.fail_after(20):
            assert await visitor.receive() == b"served"
    assert await output_of(held) == b""


async def test_the_next_agent_finds_everything_as_it_was(keeper: RunningKeeper) -> None:
    """Goal: adoption. Method: leave; meanwhile a child writes; connect again and compare."""
    talk = "exec 2>&1; read line; echo between; " + SAY_LISTEN
    async with connect_keeper(keeper.layout.keeper_socket) as first:
        await first.listen("cell:a", keeper.layout.cells / "c1.sock")
        before = await first.spawn(
            "one", ["sh", "-c", talk], env=PATH, control=True, tags={"n": [1]}, stdin=b"go\n"
        )
        assert isinstance(await next_event(first), Ready)
        close_all([before.output or -1])
    async with connect_keeper(keeper.layout.keeper_socket) as second:
        assert "cell:a" in second.sockets
        after = second.processes["one"]
        assert (after.pid, after.tags, after.ready) == (before.pid, {"n": [1]}, True)
        assert after.started == before.started
        assert after.output is not None
        assert os.read(after.output, 100) == b"between\n"
        close_all([after.output])


async def test_hundreds_of_sockets_and_processes_are_handed_over_whole(
    keeper: RunningKeeper,
) -> None:
    """Goal: more than fits one message. Method: 300 sockets, 70 processes, a new agent."""
    async with connect_keeper(keeper.layout.keeper_socket) as first:
        for n in range(300):
            await first.listen(f"cell:{n}", keeper.layout.cells / f"c{n}.sock")
        for n in range(70):
            held = await first.spawn(f"p{n}", ["sleep", "1000"], env=PATH, tags={"t": "x" * 5000})
            close_all([held.output or -1])
    async with connect_keeper(keeper.layout.keeper_socket) as second:
        assert len(second.sockets) == 305
        assert len(set(second.sockets.values())) == 305
        assert len(second.processes) == 70
        assert len({p.output for p in second.processes.values()}) == 70
        close_all(p.output or -1 for p in second.processes.values())


async def test_a_flood_of_output_blocks_nobody_while_there_is_no_agent(
    keeper: RunningKeeper,
) -> None:
    """Goal: a cell never waits for a log. Method: 8 MB with no agent; then the end is seen."""
    flood = "import os,time\nfor _ in range(4_000): os.write(1, b'x' * 2_049)\nprint('end', flush=True)\n"
    async with connect_keeper(keeper.layout.keeper_socket) as first:
        held = await first.spawn(
            "one", [sys.executable, "-c", flood + "time.sleep(1000)"], env=PATH
        )
        close_all([held.output or -1])
    keeper.wait_for_event("agent_left")
    with anyio.fail_after(60):
        while not _sleeps(held.pid):
            await anyio.sleep(0.02)
    async with connect_keeper(keeper.layout.keeper_socket) as second:
        output = second.processes["one"].output
        assert output is not None
        kept = b""
        while not kept.endswith(b"end\n"):
            kept += await read_some(output)
        assert len(kept) < 1024 * 1024
        close_all([output])


def _sleeps(pid: int) -> bool:
    """Tell whether a process waits in sleep, not for room in a pipe."""
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()


async def test_the_keeper_reads_no_output_while_an_agent_is_there(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: not a line is stolen from the agent. Method: fill the pipe, wait, count all of it."""
    total = 3_000_000
    script = f"import os\nleft = {total}\nwhile left: left -= os.write(1, b'x' * min(left, 60_000))"
    held = await client.spawn("one", [sys.executable, "-c", script], env=PATH)
    while "pipe" not in Path(f"/proc/{held.pid}/wchan").read_text():
        await anyio.sleep(0.02)
    await anyio.sleep(0.2)  # several of the keeper's looks at full pipes
    assert len(await output_of(held)) == total


async def test_a_newer_agent_replaces_the_older(keeper: RunningKeeper) -> None:
    """Goal: one agent at a time. Method: connect twice; the first block ends in an error."""
    with pytest.raises(ConnectionError):
        async with connect_keeper(keeper.layout.keeper_socket):
            async with connect_keeper(keeper.layout.keeper_socket) as second:
                assert "http" in second.sockets
                with anyio.fail_after(20):
                    await anyio.sleep_forever()


async def test_an_error_in_the_block_comes_out_as_it_is(keeper: RunningKeeper) -> None:
    """Goal: no groups around single errors. Method: raise inside; and no keeper at all."""
    with pytest.raises(ZeroDivisionError):
        async with connect_keeper(keeper.layout.keeper_socket):
            _ = 1 // 0
    with pytest.raises(ConnectionError, match="no keeper"):
        async with connect_keeper(keeper.layout.run / "none.sock"):
            pass


async def test_garbage_from_an_agent_ends_its_connection_and_nothing_else(
    keeper: RunningKeeper,
) -> None:
    """Goal: a broken agent harms nobody. Method: not JSON; the next agent is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broken:
        broken.connect(str(keeper.layout.keeper_socket))
        broken.send(b"\xff not json")
        broken.settimeout(20)
        while broken.recv(200_000):
            pass
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        assert "http" in client.sockets


async def test_what_a_child_started_ends_with_it(
    keeper: RunningKeeper, client: KeeperClient
) -> None:
    """Goal: nobody outlives their leader. Method: a shell that ends and leaves a sleeper."""
    held = await client.spawn("one", ["sh", "-c", "sleep 1000 & echo $!"], env=PATH)
    sleeper = int(await output_of(held))
    assert await next_event(client) == Exited("one", held.pid, 0)
    with anyio.fail_after(20):
        while births({sleeper}):
            await anyio.sleep(0.01)
