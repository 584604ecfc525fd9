"""Busy cores are shared between accounts, however many processes each of them runs.

Real processes in real control groups, all of them held to one core, so that what else this machine
does takes from both alike and a single process could burn its account's half.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from kythera.ground.cgroups import Groups, find
from kythera.ground.forking import Command, base_environment, exit_status, spawn
from kythera.ground.meters import cpu_seconds
from kythera.node.cell_groups import CellGroups
from kythera.run.cell import CellName
from tests.processes import wait_until

pytestmark = pytest.mark.real
ONE, MANY = "a" * 32, "b" * 32
CELLS = {ONE: ["alone"], MANY: ["first", "first", "second", "second"]}
"""Each account's processes, by worker: one has four, of two workers."""
TOLERANCE = 0.08
"""Of one half. By processes it would be 0.2 and 0.8; by workers, a third and two."""
LOOKS = 5
LOOK_CPU_S = 1.0
"""How much both must have burnt between two looks."""
BURNT_S_MAX = 60.0
"""Until then: a machine that is busy otherwise gives them little."""
BURN = ("sh", "-c", "while :; do :; done")


@pytest.fixture
def groups() -> Iterator[Groups]:
    """Return real groups of this test's own, if this machine has any."""
    found = find(f"kythera-test-shares-{os.getpid()}")
    if found.cpu is None:
        pytest.skip("this machine gives nobody a cpu control group")
    yield found
    found.clear()


@contextmanager
def burning(folders: Mapping[str, Sequence[list[str]]]) -> Iterator[dict[str, list[int]]]:
    """Burn one core: a process for each list of folders, which it joins; yields the processes of
    each account."""
    core = max(os.sched_getaffinity(0))
    held: list[tuple[int, int]] = []
    pids: dict[str, list[int]] = {}
    try:
        for account, joined in folders.items():
            for cgroups in joined:
                pid, pidfd = spawn(Command(BURN, base_environment(), cgroups=cgroups))
                held.append((pid, pidfd))
                os.sched_setaffinity(pid, {core})
                pids.setdefault(account, []).append(pid)
        yield pids
    finally:
        for _, pidfd in held:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for _, pidfd in held:
            wait_until(partial(_has_ended, pidfd), "it has ended")
            os.close(pidfd)


def _has_ended(pidfd: int) -> bool:
    return exit_status(pidfd) is not None


def shares(pids: Mapping[str, Sequence[int]]) -> list[float]:
    """Return the first account's share of what both burnt, look by look."""
    found = []
    for _ in range(LOOKS):
        before = _burnt(pids)

        def enough(before: dict[str, float] = before) -> bool:
            return sum(_burnt(pids).values()) - sum(before.values()) >= LOOK_CPU_S

        wait_until(enough, "both have burnt something", deadline_s=BURNT_S_MAX)
        after = _burnt(pids)
        burnt = {account: after[account] - before[account] for account in pids}
        found.append(burnt[ONE] / sum(burnt.values()))
    return found


def _burnt(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {account: sum(map(cpu_seconds, found)) for account, found in pids.items()}


def unfair(found: Sequence[float]) -> bool:
    """Tell whether most looks saw an account with other than its half. Pure.

    A virtual machine is stopped now and then in the middle of one: a look alone says little."""
    return sum(abs(share - 0.5) <= TOLERANCE for share in found) < len(found) / 2


def folders_of(cells: CellGroups) -> dict[str, list[list[str]]]:
    """Return the folders that each process joins, as the agent has them made."""
    return {
        account: [
            cells.open(CellName(account, worker, "v", 1, observed=False), f"{account}{at}", 0)
            for at, worker in enumerate(workers)
        ]
        for account, workers in CELLS.items()
    }


def test_each_account_has_its_half_of_a_busy_core(groups: Groups) -> None:
    """Goal: who runs four processes gets as much as who runs one."""
    with burning(folders_of(CellGroups(groups))) as pids:
        found = shares(pids)
    assert not unfair(found), found


@pytest.mark.parametrize("fault", ["no groups of their own", "another weight"])
def test_the_check_finds_a_core_that_is_not_shared(groups: Groups, fault: str) -> None:
    """Goal: the same check sees it when processes share by their number, or one account weighs
    more."""
    folders = folders_of(CellGroups(groups))
    assert groups.cpu is not None
    if fault == "another weight":
        file = "cpu.weight" if groups.version == 2 else "cpu.shares"
        heavy = groups.cpu / MANY / file
        heavy.write_text(str(4 * int(heavy.read_text(encoding="ascii"))), encoding="ascii")
    else:
        shared = groups.cpu / "all"
        shared.mkdir()
        folders = {account: [[str(shared)] for _ in found] for account, found in folders.items()}
    with burning(folders) as pids:
        found = shares(pids)
    assert unfair(found), found


def test_the_verdict_follows_most_looks() -> None:
    """Goal: halves are fair, a fifth is not, one odd look decides nothing."""
    assert not unfair([0.5, 0.47, 0.53, 0.2, 0.5, 0.5])
    assert unfair([0.2] * 6)
    assert unfair([0.2, 0.5, 0.2, 0.2, 0.2, 0.2])
    assert unfair([0.34] * 6)
