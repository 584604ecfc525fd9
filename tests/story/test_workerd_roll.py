"""The operator pins another workerd while visitors come; or one that is broken.

A copy of the binary is another one: it has a mark of its own, and cells show which they run.
"""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kythera.run.pinned import mark_of
from kythera.run.workerd import find_workerd
from tests.platforms import RunningPlatform, running
from tests.processes import wait_until
from tests.wranglers import says

pytestmark = [pytest.mark.real, pytest.mark.story]
WORKERS = tuple(f"shop{number}" for number in range(5))
CALM = ("--limit", "idle_stop_s=600")


@contextmanager
def load(platform: RunningPlatform, seen: Counter[str]) -> Iterator[None]:
    """Ask all workers all the time, two visitors each with a connection that is kept."""
    over = threading.Event()

    def ask(worker: str) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not over.is_set():
                try:
                    answer = client.get(platform.http, headers={"Host": f"{worker}.localhost"})
                    seen[answer.text if answer.is_success else f"HTTP {answer.status_code}"] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)] += 1
                over.wait(0.005)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in WORKERS for _ in "12"]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def deploy(platform: RunningPlatform) -> None:
    """Have some workers that run."""
    for worker in WORKERS:
        platform.upload(worker, says(worker))
    for worker in WORKERS:
        platform.wait_for(worker, worker)


def marks(platform: RunningPlatform) -> Counter[str]:
    """Return which workerds the cells' processes run, by the inodes of their programs."""
    found: Counter[str] = Counter()
    for cell in platform.status()["cells"]:
        for pid in cell["pids"]:
            found[str(Path(f"/proc/{pid}/exe").stat().st_ino)] += 1
    return found


def machine(platform: RunningPlatform) -> dict[str, Any]:
    """Return what the machine says of itself."""
    found: dict[str, Any] = platform.status()["machines"][0]
    return found


def test_another_workerd_is_rolled_under_load(state: Path) -> None:
    """Goal: all cells run it, one after another, and no request fails; and back again."""
    other = state.with_name("workerd-of-another-day")
    shutil.copy2(find_workerd(), other)
    seen: Counter[str] = Counter()
    with running(state, *CALM) as platform:
        deploy(platform)
        packaged = machine(platform)["workerd_mark"]
        assert packaged == mark_of(find_workerd())
        with load(platform, seen):
            done = platform.kythera("workerd", "use", str(other))
            assert done.returncode == 0, done.stderr
            assert "proves itself with one cell" in done.stdout
            assert "cells to go: " in done.stdout
            assert set(marks(platform)) == {str(other.stat().st_ino)}
            assert machine(platform)["workerd_mark"] == mark_of(other)
            os.kill(_agent(platform), 9)  # the next one knows what is in use
            done = platform.kythera("workerd", "use", "default")
            assert done.returncode == 0, done.stderr
            assert set(marks(platform)) == {str(find_workerd().stat().st_ino)}
        assert machine(platform)["workerd_mark"] == packaged
        assert all(cell["workerd"] for cell in platform.status()["cells"] if cell["pids"])
    assert set(seen) == set(WORKERS), seen
    assert sum(seen.values()) > 1_000


def _agent(platform: RunningPlatform) -> int:
    from tests.processes import children

    for pid in children(platform.process.pid):
        if b"kythera.node.agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no agent runs")


BROKEN = {
    "no program": b"not a program at all",
    "says nothing": b"#!/bin/sh\nexit 1\n",
    "starts nothing": b'#!/bin/sh\n[ "$1" = --version ] && echo workerd 2027-01-01\nexit 1\n',
}


def test_a_broken_workerd_changes_nothing_and_is_told(state: Path) -> None:
    """Goal: the one that runs stays. Method: no program, one without a version, one that starts no
    cell, a script around the real one (a sandbox has no shell); each under load."""
    seen: Counter[str] = Counter()
    with running(state, *CALM) as platform:
        deploy(platform)
        before = marks(platform)
        with load(platform, seen):
            for name, content in BROKEN.items():
                program = state.with_name(name.replace(" ", "-"))
                program.write_bytes(content)
                program.chmod(0o755)
                done = platform.kythera("workerd", "use", str(program))
                assert done.returncode == 1, done.stdout
                assert "does not" in done.stderr, done.stderr
                assert marks(platform) == before
            absent = platform.kythera("workerd", "use", str(state.with_name("absent")))
            assert absent.returncode == 1
            good_at_first = state.with_name("good-at-first")
            real = find_workerd()
            good_at_first.write_text(
                f'#!/bin/sh\ncase "$*" in *--version*) exec {real} "$@";; esac\n'
                f'case "$*" in *pulse*) exit 1;; esac\nexec {real} "$@"\n'
            )
            good_at_first.chmod(0o755)
            done = platform.kythera("workerd", "use", str(good_at_first))
            assert done.returncode == 1
            told = machine(platform)["workerd_change"]
            assert told.startswith("refused"), told
            assert "stays" in done.stderr
        assert marks(platform) == before
        assert "refused" in platform.kythera("status").stdout
        assert platform.kythera("workerd", "use", "default").returncode == 0
        wait_until(lambda: not machine(platform)["workerd_change"], "nothing is wrong any more")
        for worker in WORKERS:
            platform.upload(worker, says(worker) + "// again\n")
    assert set(seen) == set(WORKERS), seen


def test_cells_are_replaced_now_and_then_and_no_request_fails(state: Path) -> None:
    """Goal: no cell lives longer than it may. Method: lives of seconds, under load."""
    seen: Counter[str] = Counter()
    with running(state, *CALM, "--limit", "restart_s=8") as platform:
        deploy(platform)
        first = {pid for cell in platform.status()["cells"] for pid in cell["pids"]}

        def replaced() -> bool:
            now = {pid for cell in platform.status()["cells"] for pid in cell["pids"]}
            return not first & now

        with load(platform, seen):
            wait_until(replaced, "every cell was replaced", deadline_s=90)
    assert set(seen) == set(WORKERS), seen
