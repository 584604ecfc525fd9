"""The lowest level of starting a process: threads, limits, and the parent's death."""

import os
import signal
import sys
import threading

import pytest

from kythera.ground.forking import Command, base_environment, exit_status, run_to_end, spawn
from tests.processes import alive, births, wait_until

DEADLINE_S = 20


def test_a_process_is_started_on_the_main_thread_only() -> None:
    """Goal: the kernel ties a child's life to its thread. Method: try on another thread."""
    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            spawn(Command(["true"], base_environment()))
        except AssertionError as error:
            failures.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(DEADLINE_S)
    assert len(failures) == 1


def test_limits_and_the_own_pid_are_set_in_the_child() -> None:
    """Goal: rlimits and LISTEN_PID hold. Method: a shell that checks both."""
    script = 'test "$LISTEN_PID" = $$ && test $(ulimit -n) = 64'
    limits = {"RLIMIT_NOFILE": 64}
    command = Command(["sh", "-c", script], {}, rlimits=limits, pid_variable="LISTEN_PID")
    _, pidfd = spawn(command)
    try:
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert exit_status(pidfd) == 0
    finally:
        os.close(pidfd)


def test_a_program_is_run_to_its_end_with_what_it_is_given() -> None:
    """Goal: a question and an answer. Method: a shell that reads, answers and fails."""
    command = Command(["sh", "-c", "cat; echo; exit 3"], base_environment())
    assert run_to_end(command, b"question", within_s=DEADLINE_S) == (3, b"question\n")


def test_a_program_that_says_nothing_is_no_trouble() -> None:
    """Goal: silence is an answer. Method: a program without output."""
    assert run_to_end(Command(["true"], base_environment()), b"", within_s=DEADLINE_S) == (0, b"")


def test_a_program_that_does_not_end_is_ended() -> None:
    """Goal: every wait has a deadline. Method: one that sleeps for ever."""
    command = Command(["sleep", "1000"], base_environment())
    assert run_to_end(command, b"", within_s=0.05) == (None, b"")


@pytest.mark.real
def test_a_killed_parent_takes_its_children_along() -> None:
    """Goal: no orphan after `kill -9`. Method: a parent that spawns, says the pid and is killed."""
    script = (
        "import time\n"
        "from kythera.ground.forking import *\n"
        "print(spawn(Command(['sleep', '1000'], base_environment()))[0], flush=True)\n"
        "time.sleep(1000)\n"
    )
    read_end, write_end = os.pipe()
    env = {**os.environ, "PYTHONPATH": "src"}
    parent, pidfd = spawn(Command([sys.executable, "-c", script], env, {1: write_end}))
    try:
        os.close(write_end)
        born = births({int(os.read(read_end, 32))})
        assert born
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        wait_until(lambda: not alive(born), f"orphans of {parent}: {alive(born)}")
    finally:
        os.close(pidfd)
        os.close(read_end)
