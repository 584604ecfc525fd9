"""Families of processes: who descends from a platform, told by a mark in the environment.

A process whose parent was killed between fork and its own wish to die with it lives on: of a
sandbox that is being set up, the inner process does (bubblewrap asks the kernel late). Its parent
is then 1, its uid another; the mark it keeps. Promises: `end` kills members of that very family
alone, each by a pidfd that was looked at again, until none is found; `guardian` does so when its
parent has died. Sources: proc(5) for environ, which a process that may not dump core hides, and
cmdline, which none hides.
"""

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kythera.ground.clock import wait_until

MARK = "KYTHERA_FAMILY"
"""The variable. A family's name is a prefix: that of a platform's one start is one of the
platform's, and has the families of its programs below it."""
PLACE = "{family}"
"""In a command line: our own family's name, for a program that shall have it there."""
END_S_MAX = 5.0
PROC = Path("/proc")


def inherited() -> dict[str, str]:
    """Return our own mark, as a variable that each child of ours gets; nothing without one."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def named(argv: Sequence[str]) -> list[str]:
    """Return a command line with our own family's name in its place."""
    return [os.environ.get(MARK, "") if word == PLACE else word for word in argv]


def members(family: str) -> list[int]:
    """Return the pids of those who carry the family's mark, without our own."""
    own = os.getpid()
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != own and _belongs(pid, family)]


def end(family: str, within_s: float = END_S_MAX) -> list[str]:
    """Kill all members, and who comes of them meanwhile; return what was killed, `pid name`.

    It blocks for as long as the kernel needs: some milliseconds."""
    killed: dict[int, str] = {}

    def none_left() -> bool:
        found = members(family)
        for pid in found:
            killed.setdefault(pid, f"{pid} {_name(pid)}")
            _kill(pid, family)
        return not found

    wait_until(none_left, within_s=within_s)
    return list(killed.values())


def _belongs(pid: int, family: str) -> bool:
    name = family.encode()
    return (b"\0%s=%s" % (MARK.encode(), name)) in b"\0" + _read(pid, "environ") or (
        b"\0%s\0%s" % (MARK.encode(), name)  # bwrap --setenv MARK PLACE
    ) in _read(pid, "cmdline")


def _read(pid: int, what: str) -> bytes:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / what).read_bytes()
    return b""  # it is gone, or not ours to look at


def _name(pid: int) -> str:
    return _read(pid, "comm").decode(errors="replace").strip()


def _kill(pid: int, family: str) -> None:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if _belongs(pid, family):  # or its number is somebody else's by now
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def guardian(family: str) -> tuple[int, int]:
    """Fork a process that ends the family when we are dead, even by `kill -9`; return its pid and a
    pidfd. It holds no descriptor of ours and dies when it has done so; end it by SIGKILL."""
    ours = os.pidfd_open(os.getpid())
    try:
        pid = os.fork()
        if pid == 0:
            _guard(ours, family)
    finally:
        os.close(ours)
    return pid, os.pidfd_open(pid)


def _guard(parent: int, family: str) -> NoReturn:
    """Be the guardian; never returns, whatever happens."""
    try:
        os.setsid()  # a terminal's Ctrl-C is not for it
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        os.dup2(parent, 0)
        os.closerange(1, 2**31 - 1)
        waiting = select.poll()
        waiting.register(0, select.POLLIN)
        waiting.poll()
        end(family)
    finally:
        os._exit(0)
