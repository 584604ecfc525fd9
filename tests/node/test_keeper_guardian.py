"""What left the keeper's reach lives no longer than the keeper, or than the program it is of.

A stray is started by the agent, in a session of its own and without the wish to die with it: what
the inner process of a sandbox is whose outer one was killed while it was set up.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.node.keepers import RunningKeeper, running
from tests.processes import PROC, alive, births, command, wait_until

pytestmark = pytest.mark.real
STRAYS = """
import subprocess, sys, time
for _ in range(3):
    subprocess.Popen(["sleep", sys.argv[1]], start_new_session=True)
time.sleep(1000)
"""


def agent_with_strays(state: Path) -> tuple[str, ...]:
    """Return how to start such an agent; its strays are known by how long they sleep."""
    return (sys.executable, "-c", STRAYS, naptime(state))


def naptime(state: Path) -> str:
    """Return a number of seconds that no other test sleeps."""
    return f"{10_000 + os.getpid()}.{abs(hash(state)) % 1_000_000:06}"


def strays(keeper: RunningKeeper) -> dict[int, str]:
    """Wait for the agent's strays; return their births."""
    line = f"sleep {naptime(keeper.layout.state)} "

    def found() -> set[int]:
        pids = {int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()}
        return {pid for pid in pids if command(pid) == line}

    wait_until(lambda: len(found()) == 3, "three strays")
    return births(found())


def guardian(keeper: RunningKeeper) -> int:
    """Return the pid of the keeper's guardian: the one child that it has forked and not named."""
    named = {
        event["pid"] for name in ("agent", "api") for event in keeper.events(f"{name}_started")
    }
    listing = PROC / str(keeper.pid) / "task" / str(keeper.pid) / "children"
    (pid,) = {int(word) for word in listing.read_text().split()} - named
    return pid


def test_after_kill_9_of_the_keeper_no_stray_lives_on(state: Path) -> None:
    """Goal: nobody is left, the guardian neither."""
    with running(state, agent_argv=agent_with_strays(state)) as keeper:
        born = strays(keeper) | births({guardian(keeper)})
        keeper.kill()
        wait_until(lambda: not alive(born), f"all have ended: {alive(born)}")


def test_a_guardian_that_was_killed_is_replaced(state: Path) -> None:
    """Goal: one kill by mistake costs no promise. Method: kill the guardian, later the keeper."""
    with running(state, agent_argv=agent_with_strays(state)) as keeper:
        born, first = strays(keeper), guardian(keeper)
        os.kill(first, signal.SIGKILL)
        keeper.wait_for_event("guardian_ended")
        wait_until(
            lambda: (
                len((PROC / f"{keeper.pid}/task/{keeper.pid}/children").read_text().split()) == 3
            ),
            "another guardian",
        )
        assert guardian(keeper) != first
        keeper.kill()
        wait_until(lambda: not alive(born), f"all have ended: {alive(born)}")


def test_what_lives_on_without_a_guardian_ends_with_the_next_start(state: Path) -> None:
    """Goal: who was missed is found. Method: stop the guardian, kill both, start again."""
    with running(state, agent_argv=agent_with_strays(state)) as keeper:
        born, watching = strays(keeper), guardian(keeper)
        os.kill(watching, signal.SIGSTOP)
        keeper.kill()
        os.kill(watching, signal.SIGKILL)
        assert len(alive(born)) == 3
        with running(state) as second:
            assert not alive(born)
            assert second.stop() == 0


@pytest.mark.parametrize("who", ["agent", "keeper"])
def test_a_stray_ends_with_its_agent_and_with_an_ordered_stop_and_is_told(
    state: Path, who: str
) -> None:
    """Goal: nothing gathers while agents come and go; what had to be ended is in the log."""
    with running(state, agent_argv=agent_with_strays(state)) as keeper:
        born = strays(keeper)
        if who == "agent":
            os.kill(keeper.events("agent_started")[0]["pid"], signal.SIGKILL)
        else:
            assert keeper.stop() == 0
        (event,) = keeper.wait_for_event("left_behind_ended")
        assert sorted(event["processes"]) == sorted(f"{pid} sleep" for pid in born)
        assert not alive(born)
