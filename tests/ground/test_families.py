"""Families of processes: who is found by the mark, and what a guardian does when its parent dies."""

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from kythera.ground import families
from kythera.ground.forking import Command, base_environment, exit_status, spawn
from tests.processes import alive, births, wait_until

SLEEP = ["sleep", "1000"]
PAUSE = [sys.executable, "-c", "import signal; signal.pause()"]
UNMARKED = {"PATH": os.environ["PATH"]}
GUARDED = """
import subprocess, sys
from kythera.ground.families import guardian
family, env = sys.argv[1], {"PATH": sys.argv[2]}
if sys.argv[3] == "guarded":
    print(guardian(family)[0])
else:
    print(0)
start = lambda **more: subprocess.Popen(["sleep", "1000"], env={**env, **more}, start_new_session=True)
print(start(KYTHERA_FAMILY=family + "/agent").pid, start().pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[str]:
    """Return the name of a family of this test's own, and end it."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    families.end(name)


def started(*argv: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a program that has `variables` and nothing else of ours."""
    return subprocess.Popen(argv, env={**UNMARKED, **variables})


def test_members_are_those_with_the_mark_and_those_below(family: str) -> None:
    """Goal: nobody else's process is ever taken for one of ours."""
    own = started(*SLEEP, KYTHERA_FAMILY=family)
    below = started(*SLEEP, KYTHERA_FAMILY=f"{family}/agent")
    told = started(*PAUSE, "--setenv", families.MARK, family)
    others = [
        started(*SLEEP, KYTHERA_FAMILY=f"x{family}"),
        started(*SLEEP, NOT_KYTHERA_FAMILY=family),
        started(*SLEEP, OTHER=f"KYTHERA_FAMILY={family}"),
        started(*PAUSE, family),
    ]
    try:
        ours = {own.pid, below.pid, told.pid}
        wait_until(lambda: set(families.members(family)) == ours, "all have become their program")
        assert families.members(f"{family}/agent") == [below.pid]
        ended = families.end(family)
        assert {f"{own.pid} sleep", f"{below.pid} sleep"} < set(ended)
        assert {int(who.split()[0]) for who in ended} == ours
        assert [process.wait(10) for process in (own, below, told)] == [-signal.SIGKILL] * 3
        assert [process.poll() for process in others] == [None] * len(others)
        assert families.end(family) == []
    finally:
        for process in others:
            process.kill()
            process.wait(10)


def test_each_process_that_is_spawned_gets_the_mark_and_a_copy_of_the_environment_has_none(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a child is of the family of whoever starts it, whatever environment it is given."""
    monkeypatch.setenv(families.MARK, family)
    assert families.MARK not in base_environment()
    script = f'test "$1 ${families.MARK}" = "{family} {family}"'
    _, pidfd = spawn(Command(["sh", "-c", script, "sh", families.PLACE], UNMARKED))
    try:
        assert select.select([pidfd], [], [], 10)[0]
        assert exit_status(pidfd) == 0
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("guarded", ["guarded", "alone"])
def test_a_guardian_ends_what_lives_on_when_its_parent_was_killed(
    family: str, guarded: str
) -> None:
    """Goal: `kill -9` leaves nobody of the family, and no guardian. Without one the child lives."""
    argv = [sys.executable, "-c", GUARDED, family, UNMARKED["PATH"], guarded]
    parent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    watching, member, stranger = (
        int(word) for _ in range(2) for word in parent.stdout.readline().split()
    )
    born = births({watching, member} - {0})
    strange = births({stranger})
    try:
        parent.kill()
        parent.wait(10)
        if guarded == "guarded":
            wait_until(lambda: not alive(born), f"all have ended: {alive(born)}")
        else:
            assert alive(born)
        assert alive(strange)
    finally:
        os.kill(stranger, signal.SIGKILL)
        parent.stdin.close()
        parent.stdout.close()
