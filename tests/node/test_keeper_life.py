"""Crashes, hangs and ends, with real processes: what lives on, what does not, and in which order."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from kythera.ground.layout import Layout
from kythera.ground.sockets import close_all, parse_address
from kythera.node.keeper_client import KeeperRefusal, connect_keeper
from kythera.node.keeper_programs import GIVE_UP_STATUS
from kythera.run.workerd import find_workerd
from tests.node.keepers import RunningKeeper, running, start
from tests.processes import alive, wait_until

pytestmark = pytest.mark.real
PATH = {"PATH": os.environ["PATH"]}
FAKE_AGENT = Path(__file__).with_name("fake_agent.py")
API = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid())
names = os.environ["LISTEN_FDNAMES"].split(":")
assert int(os.environ["LISTEN_FDS"]) == len(names)
door = socket.socket(fileno=3 + names.index("api"))
tail = socket.socket(fileno=3 + names.index("tail"))
door.setblocking(True)
while True:
    door.accept()[0].sendall(tail.getsockname().encode())
"""
HELPED = """
import anyio
from kythera.ground.processes import child
async def main():
    async with child(["sleep", "1000"]) as helper:
        await helper.wait()
anyio.run(main)
"""
TELL_END = """
import signal, sys, time
from pathlib import Path
def told(signum, frame):
    Path(sys.argv[1]).open("a").write(f"{sys.argv[2]} {signum}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGUSR1, told)
Path(sys.argv[1] + "." + sys.argv[2]).touch()
print("up", flush=True)
while True: signal.pause()
"""


def fake_agent(state: Path, report: Path) -> tuple[str, ...]:
    """Return how to start the agent that keeps one cell."""
    layout = Layout(state.absolute())
    return (
        *(sys.executable, str(FAKE_AGENT), str(layout.keeper_socket)),
        *(str(report), str(layout.cells / "c1.sock")),
    )


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Return where the fake agent reports what it found at each start."""
    return tmp_path / "report"


@pytest.fixture
def with_agent(state: Path, report: Path) -> Iterator[RunningKeeper]:
    """Return a keeper with the fake agent, ready."""
    limits = {"agent_silent_ms_max": 1_000}
    argv = fake_agent(state, report)
    with running(state, agent_argv=argv, limits=limits, json=True) as keeper:
        reports(report, 1)
        keeper.note_family()
        yield keeper


def reports(report: Path, count: int) -> list[dict[str, Any]]:
    """Wait for so many starts of the agent; return what each found."""

    def lines() -> list[str]:
        return report.read_text().splitlines() if report.exists() else []

    wait_until(lambda: len(lines()) >= count, f"{count} starts of the agent", deadline_s=30)
    return [json.loads(line) for line in lines()]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["crash", "hang"])
def test_a_lost_agent_is_replaced_and_the_next_adopts_the_cell(
    with_agent: RunningKeeper, report: Path, signum: int
) -> None:
    """Goal: crash and hang cost no cell. Method: kill or stop the agent; compare what it finds."""
    (first,) = reports(report, 1)
    assert first["processes"] == {}
    os.kill(first["pid"], signum)
    second = reports(report, 2)[1]
    assert second["pid"] != first["pid"]
    assert second["sockets"] == ["api", "cell:a:1", "http", "mesh", "peers", "tail"]
    ((pid, tags, ready),) = second["processes"].values()
    assert (tags, ready) == ({"generation": 1}, True)
    os.kill(second["pid"], signal.SIGKILL)
    assert reports(report, 3)[2]["processes"]["cell:a:1#1"][0] == pid


def test_an_agent_that_keeps_crashing_is_started_less_and_less_often(state: Path) -> None:
    """Goal: back-off from the shortest. Method: an agent that ends at once; read the pauses."""
    limits = {"child_backoff_ms_min": 20, "child_backoff_ms_max": 60}
    with running(state, agent_argv=("false",), limits=limits) as keeper:
        ended = keeper.wait_for_event("agent_ended", 4)
    assert [event["again_ms"] for event in ended[:4]] == [20, 40, 60, 60]
    assert ended[0]["status"] == 1


def test_an_agent_that_gives_up_before_it_was_ready_ends_the_platform(state: Path) -> None:
    """Goal: what cannot work ends with an error, not in a loop. Method: the agreed status."""
    keeper = start(state, agent_argv=("sh", "-c", f"exit {GIVE_UP_STATUS}"))
    try:
        assert keeper.process.wait(20) == 1
    finally:
        keeper.process.communicate()
    assert keeper.events("agent_gave_up")


def test_with_json_there_is_one_line_on_stdout_however_often_agents_start(
    with_agent: RunningKeeper, report: Path
) -> None:
    """Goal: scripts read one event. Method: two agents announce; stop; read all of stdout."""
    os.kill(reports(report, 1)[0]["pid"], signal.SIGKILL)
    reports(report, 2)
    assert with_agent.stop() == 0
    assert with_agent.process.stdout is not None
    (line,) = with_agent.process.stdout.read().splitlines()
    event = json.loads(line)
    assert event["http"] == f"http://{with_agent.platform.http}"
    assert event["pid"] == with_agent.pid
    assert event["account_id"] == with_agent.platform.account_id


def test_the_api_is_given_its_sockets_as_systemd_would(state: Path) -> None:
    """Goal: LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES. Method: an API that checks and answers."""
    with running(state, api_argv=(sys.executable, "-c", API)) as keeper:
        for _ in range(2):
            with socket.create_connection(parse_address(keeper.platform.api), 20) as visitor:
                visitor.settimeout(20)
                assert visitor.recv(200).decode() == str(keeper.layout.tail_socket)
            api = keeper.wait_for_event("api_started")[-1]["pid"]
            os.kill(api, signal.SIGKILL)
            keeper.wait_for_event("api_ended")


def haproxy_config(folder: Path) -> Path:
    """Write a configuration that listens on the inherited door and answers by itself."""
    path = folder / "haproxy.cfg"
    path.write_text(
        "defaults\n  mode http\n  timeout client 5s\n"
        "frontend door\n  bind fd@${DOOR}\n  http-request return status 200\n"
    )
    return path


def front_answers(keeper: RunningKeeper) -> bool:
    """Tell whether HAProxy answers on the door."""
    with socket.create_connection(parse_address(keeper.platform.http), 5) as visitor:
        visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b" 200 " in visitor.recv(100)


WORKERD_CONFIG = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    serviceWorkerScript = "addEventListener('fetch', e => e.respondWith(new Response('hi')))",
    compatibilityDate = "2026-01-01"))],
  sockets = [(name = "http", service = "main")]);
"""


async def start_engines(keeper: RunningKeeper, folder: Path) -> None:
    """Start HAProxy (master and worker) and workerd as an agent would."""
    config = folder / "cell.capnp"
    config.write_text(WORKERD_CONFIG)
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        argv = ["haproxy", "-W", "-db", "-f", str(haproxy_config(folder))]
        front = await client.spawn(
            "haproxy", argv, env={**PATH, "DOOR": "{socket:http}"}, stop_signal=signal.SIGUSR1
        )
        await client.listen("cell:a", keeper.layout.cells / "a.sock")
        argv = [str(find_workerd()), "serve", str(config)]
        argv += ["--socket-fd", "http={socket:cell:a}", "--control-fd", "{control}"]
        cell = await client.spawn("cell:a#1", argv, env={}, control=True, stop_order=1)
        with anyio.fail_after(20):
            await client.events.receive()
        close_all([front.output or -1, cell.output or -1])


def count(keeper: RunningKeeper, words: str) -> int:
    """Count the keeper's descendants that run a command."""
    return len([line for line in alive(keeper.note_family()) if words in line])


needs_haproxy = pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")


@needs_haproxy
def test_after_kill_9_of_the_keeper_nothing_lives_on_and_the_next_starts_at_once(
    state: Path, tmp_path: Path
) -> None:
    """Goal: no orphan, no stale lock or port. Method: HAProxy with its workers, workerd, an API
    with a helper of its own; kill; look for each; start again on the same addresses."""
    with running(state, api_argv=(sys.executable, "-c", HELPED)) as keeper:
        anyio.run(start_engines, keeper, tmp_path)
        wait_until(lambda: front_answers(keeper), "HAProxy answers")
        wait_until(lambda: count(keeper, "sleep 1000"), "the API's helper")
        born = dict(keeper.note_family())
        commands = alive(born)
        assert len([c for c in commands if "haproxy" in c]) == 2
        assert len([c for c in commands if "workerd" in c]) == 1
        before = keeper.platform
        keeper.kill()
        with running(state) as second:
            assert (second.platform.http, second.platform.api) == (before.http, before.api)
            assert second.platform.account_id == before.account_id
            wait_until(lambda: not alive(born), f"orphans: {alive(born)}")


@needs_haproxy
def test_ctrl_c_ends_everything_drained_and_in_order(state: Path, tmp_path: Path) -> None:
    """Goal: exit code 0, no socket file left. Method: the real engines; SIGINT; look."""
    with running(state) as keeper:
        anyio.run(start_engines, keeper, tmp_path)
        wait_until(lambda: front_answers(keeper), "HAProxy answers")
        born = dict(keeper.note_family())
        assert keeper.stop(signal.SIGINT) == 0
        wait_until(lambda: not alive(born), f"gone: {alive(born)}")
        assert not keeper.layout.run.exists() or not [*keeper.layout.run.rglob("*.sock")]
        assert not keeper.events("killed_at_deadline")


async def start_tellers(keeper: RunningKeeper, told: Path, names: dict[str, int]) -> None:
    """Start processes that write down when they are told to end."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        for name, order in names.items():
            held = await client.spawn(
                name,
                [sys.executable, "-c", TELL_END, str(told), name],
                env={},
                stop_order=order,
                stop_signal=signal.SIGUSR1 if name == "front" else signal.SIGTERM,
            )
            assert held.output is not None
            await anyio.wait_readable(held.output)
            close_all([held.output])


def test_the_order_of_the_end_is_front_cells_api_agent_log(state: Path, tmp_path: Path) -> None:
    """Goal: the log ends last. Method: processes that write down who was told when."""
    told = tmp_path / "told"
    teller = (sys.executable, "-c", TELL_END, str(told))
    with running(state, agent_argv=(*teller, "agent"), api_argv=(*teller, "api")) as keeper:
        orders = {"log": 9, "cell-1": 1, "cell-2": 1, "front": 0}
        anyio.run(start_tellers, keeper, told, orders)
        for name in ("api", "agent"):
            wait_until((tmp_path / f"told.{name}").exists, f"the {name} can be told")
        assert keeper.stop() == 0
    lines = told.read_text().splitlines()
    assert lines[0] == f"front {signal.SIGUSR1.value}"
    assert sorted(lines[1:3]) == ["cell-1 15", "cell-2 15"]
    assert lines[3:] == ["api 15", "agent 15", "log 15"]


async def start_deaf(keeper: RunningKeeper) -> None:
    """Start a process that hears no signal but SIGKILL."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        held = await client.spawn(
            "deaf",
            ["sh", "-c", "trap '' TERM INT; echo up; while :; do sleep 1000; done"],
            env=PATH,
        )
        assert held.output is not None
        await anyio.wait_readable(held.output)
        close_all([held.output])


def test_who_does_not_end_by_itself_is_killed_within_the_limit(state: Path) -> None:
    """Goal: stop_ms holds. Method: a deaf process and a small limit."""
    with running(state, limits={"stop_ms": 1_000}) as keeper:
        anyio.run(start_deaf, keeper)
        keeper.note_family()
        begin = time.monotonic()
        assert keeper.stop() == 0
        assert time.monotonic() - begin < 5
        assert keeper.events("killed_at_deadline")[0]["processes"] == ["deaf"]


def test_a_second_ctrl_c_ends_everything_at_once(state: Path) -> None:
    """Goal: an impatient person is obeyed. Method: a deaf process, a long limit, two signals."""
    with running(state, limits={"stop_ms": 600_000}) as keeper:
        anyio.run(start_deaf, keeper)
        born = dict(keeper.note_family())
        keeper.process.send_signal(signal.SIGINT)
        keeper.wait_for_event("stopping")
        assert keeper.stop(signal.SIGINT) == 130
        wait_until(lambda: not alive(born), f"gone: {alive(born)}")


async def ask_while_stopping(keeper: RunningKeeper) -> None:
    """Be told of the end; see what may still be started."""
    async with connect_keeper(keeper.layout.keeper_socket) as client:
        front = await client.spawn("front", ["sleep", "1000"], env=PATH, stop_signal=signal.SIGCONT)
        keeper.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(20):
            await client.stopping.wait()
        cell = await client.spawn("cell", ["sleep", "1000"], env=PATH, stop_order=1)
        with pytest.raises(KeeperRefusal, match="stopping"):
            await client.spawn("front-again", ["sleep", "1000"], env=PATH)
        close_all([front.output or -1, cell.output or -1])


def test_while_the_front_drains_cells_may_still_be_woken(state: Path) -> None:
    """Goal: waiting requests are served during a stop. Method: spawn both kinds meanwhile."""
    with running(state, limits={"stop_ms": 3_000}) as keeper:
        anyio.run(ask_while_stopping, keeper)
        assert keeper.process.wait(20) == 0


def refused(state: Path, **options: Any) -> str:
    """Return what a keeper that cannot start says."""
    keeper = start(state, **options)
    keeper.process.communicate(timeout=30)
    assert keeper.process.returncode == 1
    return keeper.log.read_text()


def test_two_keepers_never_share_a_state_folder(state: Path) -> None:
    """Goal: the error names the pid. Method: start a second one."""
    with running(state) as keeper:
        said = refused(state)
        assert f"already runs on this state folder (pid {keeper.pid})" in said
        assert "--state DIR" in said
        assert keeper.process.poll() is None


def test_a_taken_port_is_said_and_the_state_is_free_again(state: Path, tmp_path: Path) -> None:
    """Goal: an error with a remedy, and no lock left. Method: another platform has the port."""
    with running(state) as keeper:
        other = tmp_path / "other"
        said = refused(other, api=keeper.platform.api)
        assert f"{keeper.platform.api} is in use" in said
        assert "--api HOST:PORT" in said
        with running(other) as second:
            assert second.platform.http != keeper.platform.http


def test_port_0_keeps_its_port_over_a_restart(state: Path) -> None:
    """Goal: addresses stay. Method: stop, start again, compare; settings pass through."""
    with running(state, limits={"idle_stop_s": 7.0}, domain="example.org") as keeper:
        first = keeper.platform
        assert keeper.stop() == 0
    assert first.limits.idle_stop_s == 7.0
    assert first.domain == "example.org"
    with running(state) as keeper:
        assert (keeper.platform.http, keeper.platform.api) == (first.http, first.api)


def test_settings_are_written_whole_and_private(state: Path) -> None:
    """Goal: the other processes read one file. Method: every field is there; modes are private."""
    with running(state) as keeper:
        assert keeper.layout.platform.stat().st_mode & 0o777 == 0o600
        written = msgspec.json.decode(keeper.layout.platform.read_bytes())
        assert set(written) == set(msgspec.to_builtins(keeper.platform))
        assert keeper.layout.run.stat().st_mode & 0o777 == 0o700


def test_children_do_not_hear_the_terminals_ctrl_c(with_agent: RunningKeeper) -> None:
    """Goal: Ctrl-C reaches only the keeper. Method: each child leads a session of its own."""
    agent, api = (with_agent.events(f"{name}_started")[0]["pid"] for name in ("agent", "api"))
    assert {os.getsid(pid) for pid in (agent, api)} == {agent, api}


def test_a_keeper_imports_nothing_heavy() -> None:
    """Goal: forks are cheap. Method: what importing the keeper pulls in."""
    script = "import sys, kythera.node.keeper; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(FAKE_AGENT.parents[2] / "src")}
    found = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"asyncio", "structlog", "nats", "capnp", "starlette", "lmdb", "subprocess"}
    assert heavy.isdisjoint(found)
