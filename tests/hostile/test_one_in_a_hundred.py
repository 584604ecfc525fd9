"""A worker that loops for ever on one request in a hundred: the other ninety-nine are answered.

Method: a tenth of `python -m bench loops`; each request is sent once, by clients that hold their
connections.
"""

import anyio
import pytest

from bench.loops import CLIENTS, LOOP_EVERY, SOURCE, Callers, Story, is_zombie
from tests.hostile.attack import cells
from tests.platforms import RunningPlatform, running
from tests.processes import family, wait_until

pytestmark = pytest.mark.real

REQUESTS = 1_000
CPU_MS = 50


def test_ninety_nine_in_a_hundred_are_answered_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """No other request fails, though loops take their processes with them all the time."""
    with running(tmp_path_factory.mktemp("loops") / "state") as platform:
        platform.upload("loops", SOURCE, limits={"cpu_ms": CPU_MS})
        platform.wait_for("loops", "done")
        story = anyio.run(asked, platform)
        loops = REQUESTS // LOOP_EVERY
        assert story.failed == {}
        assert len(story.served_ms) == REQUESTS - loops
        assert story.loops.total() == loops
        assert story.loops["status 200"] == 0
        wait_until(lambda: nothing_left(platform), "every process is a cell's, and none a zombie")
        assert sum(cell["exceeded_cpu"] for cell in cells(platform)) >= loops
        assert sum(cell["crashes"] for cell in cells(platform)) == 0
        assert platform.get("loops").text == "done"


async def asked(platform: RunningPlatform) -> Story:
    """Let all clients ask."""
    host, _, port = platform.http.removeprefix("http://").partition(":")
    callers = Callers((host, int(port)), f"loops.{platform.domain}", REQUESTS)
    return await callers.run(CLIENTS)


def nothing_left(platform: RunningPlatform) -> bool:
    """Tell whether the worker has two processes at most, all of them known, and no zombie."""
    (pids,) = [cell["pids"] for cell in cells(platform)]
    return len(pids) <= 2 and not any(is_zombie(pid) for pid in family(platform.process.pid))
