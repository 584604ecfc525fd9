"""What a process asks of the scheduler reaches the kernel, for each of its threads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kythera.ground.scheduling import TURN_US_QUICK, set_patient, set_quick
from tests.processes import wait_until

THREADS = "import threading; threading.Thread(target=input).start(); threading.Event().wait()"


@pytest.mark.real
def test_both_paces_reach_all_threads() -> None:
    """Goal: the policy, the turn's length where the kernel shows it, and back again."""
    with subprocess.Popen([sys.executable, "-c", THREADS], stdin=subprocess.PIPE) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        wait_until(lambda: len(list(tasks.iterdir())) == 2, "both threads run")
        try:
            for set_pace, policy in (
                (set_quick, os.SCHED_OTHER),
                (set_patient, os.SCHED_BATCH),
                (set_quick, os.SCHED_OTHER),
            ):
                set_pace(process.pid)
                for task in tasks.iterdir():
                    assert os.sched_getscheduler(int(task.name)) == policy
                    assert turn_us(task) in (None, (set_pace is set_quick)), task
        finally:
            process.kill()


def turn_us(task: Path) -> bool | None:
    """Tell whether a thread has the short turn; None where the kernel does not say (before 6.12)."""
    found = re.search(r"^se\.slice\s*:\s*(\d+)", (task / "sched").read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) == TURN_US_QUICK * 1000


def test_whoever_is_gone_is_said() -> None:
    """Goal: an OSError, which the caller expects."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(OSError, match=r"\S"):
        set_quick(process.pid)
