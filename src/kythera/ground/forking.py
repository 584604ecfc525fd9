"""Starting a process, at the lowest level: what both the keeper and `processes` stand on.

Promises of `spawn`: the child dies when its parent dies (also by `kill -9`), leads a session and
a process group of its own (a terminal's Ctrl-C does not reach it), holds exactly the descriptors
it was given, and has default signal handling. It is watched by a pidfd, which no reused pid can
confuse. Call it on the main thread: the kernel ties the child's life to the *thread* that forked.
With another uid (root alone can give one) it sees in STAGE what it could not reach by its path.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import resource
import select
import shutil
import signal
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from kythera.ground import families
from kythera.ground.files import memfd
from kythera.model.errors import SetupError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_FIRST_FREE = 3
_KILL_S = 5.0
_PIPE_BYTES = 65_536
"""What a pipe holds at least, so that a child can end before anybody reads."""
_RESET = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGWINCH,
]
STAGE = "/tmp"  # noqa: S108 (in a mount namespace of the child's own, there is nothing else in it)
"""Covered, for a child with another uid alone, by a folder that it can read."""
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 0x1000, 0x4000, 0x80000
_INNER = re.compile(rb'"child-pid":\s*(\d+)')
CANNOT_START = 127
"""Exit status of a child whose program could not be executed; it said why on its stderr."""


@dataclass(frozen=True)
class Command:
    """A process to be: descriptors are by number in the child, program by path."""

    argv: Sequence[str]
    env: Mapping[str, str]
    descriptors: Mapping[int, int] = field(default_factory=dict)
    """Child's number → ours. 0, 1 and 2 are /dev/null unless given."""
    rlimits: Mapping[str, int] = field(default_factory=dict)
    """`{"RLIMIT_AS": bytes}`: soft and hard alike."""
    batch: bool = False
    """SCHED_BATCH: when it wakes it does not push aside what runs; it answers several at a time."""
    pid_variable: str = ""
    """A variable that is to hold the child's own pid (systemd's LISTEN_PID)."""
    uid: int | None = None
    """Who it is to be (group alike, no other groups); None: who we are."""
    stage: Mapping[str, str] = field(default_factory=dict)
    """Name → file or folder: with another uid, what it shall find as STAGE/name."""
    cgroups: Sequence[str] = ()
    """Folders of control groups that it joins."""


def find_program(name: str, path: str | None = None) -> str:
    """Return the absolute path of a program. Raises SetupError when it cannot be run."""
    found = shutil.which(name, path=path)
    if found is None:
        raise SetupError(
            f"cannot run {name!r}: there is no such program, or it is not executable.",
            remedy="Run `make setup`, which installs what is missing.",
        )
    return str(Path(found).absolute())


def spawn(command: Command) -> tuple[int, int]:
    """Start `command`; return its pid and a pidfd. Raises SetupError when there is no program."""
    assert threading.current_thread() is threading.main_thread(), "spawn on the main thread"
    program = find_program(command.argv[0], command.env.get("PATH"))
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(command, program, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, os.pidfd_open(pid)


def run_to_end(command: Command, stdin: bytes, *, within_s: float) -> tuple[int | None, bytes]:
    """Run a program to its end and return its status and what it wrote on stdout; None: it took
    too long and was killed. Its stderr is ours.

    It blocks: only for programs that have nothing else to do yet, never in a loop."""
    given = memfd(stdin)
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _, pidfd = spawn(replace(command, descriptors={0: given, 1: write_end, 2: 2}))
    finally:
        os.close(given)
        os.close(write_end)
    try:
        ended, _, _ = select.select([pidfd], [], [], within_s)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _KILL_S)
        status = exit_status(pidfd)
        with contextlib.suppress(BlockingIOError):
            return (status if ended else None), os.read(read_end, _PIPE_BYTES)
        return (status if ended else None), b""
    finally:
        os.close(read_end)
        os.close(pidfd)


def _become(command: Command, program: str, parent: int) -> NoReturn:
    """Turn the forked child into the program; never returns, whatever happens."""
    try:
        os.setsid()
        for group in command.cgroups:
            Path(group, "cgroup.procs").write_text("0", encoding="ascii")
        if command.uid is not None:
            _set_stage(command.stage)
            _change_identity(command.uid)
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # another uid undoes it
        if os.getppid() != parent:
            os._exit(CANNOT_START)  # the parent died before the line above took effect
        _place(command.descriptors)
        for name, value in command.rlimits.items():
            _limit(getattr(resource, name), value)
        if command.batch:
            with contextlib.suppress(OSError):  # Forbidden in some containers; it is only thrift.
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        env = {**families.inherited(), **command.env}
        if command.pid_variable:
            env[command.pid_variable] = str(os.getpid())
        for signum in _RESET:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(program, families.named(command.argv), env)
    except BaseException as error:  # noqa: BLE001 (nothing may escape into the parent's code)
        os.write(2, f"cannot start {command.argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(CANNOT_START)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (most, most))


def _set_stage(stage: Mapping[str, str]) -> None:
    """Leave our mount namespace for one in which STAGE holds what the child may see.

    Sources are opened before STAGE covers what may be below it; a descriptor's own path is then
    bound, whatever the folders above it forbid (open(2), O_PATH; mount(2))."""
    _called(_libc.unshare(_CLONE_NEWNS))
    _mount("none", "/", _MS_REC | _MS_SLAVE)
    sources = {name: os.open(path, os.O_PATH) for name, path in stage.items()}
    _mount("tmpfs", STAGE, _MS_NOSUID | _MS_NODEV, "mode=0755")
    for name, source in sources.items():
        target = Path(STAGE, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            target.mkdir()
        else:
            target.touch()
        _mount(f"/proc/self/fd/{source}", str(target), _MS_BIND)
        os.close(source)


def _mount(source: str, target: str, flags: int, data: str = "") -> None:
    kind = b"tmpfs" if source == "tmpfs" else None
    _called(_libc.mount(source.encode(), target.encode(), kind, flags, data.encode()))


def _called(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _change_identity(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def inner_process(said: bytes, outer: int) -> tuple[int, int] | None:
    """Return pid and pidfd of the process that bubblewrap (`--info-fd`) says it has started inside;
    None when it said nothing yet, or that process is gone. `outer` is bubblewrap's own pid."""
    match = _INNER.search(said)
    if match is None:
        return None
    pid = int(match[1])
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        if _parent(pid) == outer:  # or it is gone, and its number somebody else's
            return pid, pidfd
        os.close(pidfd)
    return None


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        stat_line = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat_line[stat_line.rindex(b")") + 2 :].split()[1])
    return None


def _place(descriptors: Mapping[int, int]) -> None:
    """Put our descriptors at the child's numbers and close all others."""
    null = os.open(os.devnull, os.O_RDWR)
    wanted = {0: null, 1: null, 2: null, **descriptors}
    above = max(_FIRST_FREE, *wanted) + 1
    parked = {n: fcntl.fcntl(ours, fcntl.F_DUPFD, above) for n, ours in wanted.items()}
    for number, ours in parked.items():
        os.dup2(ours, number, inheritable=True)
    for number in range(_FIRST_FREE, above):
        if number not in wanted:
            os.closerange(number, number + 1)
    os.closerange(above, 2**31 - 1)


def exit_status(pidfd: int) -> int | None:
    """Reap a child: its exit code, or minus the signal that ended it; None while it lives."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def told_by_shell(status: int) -> int:
    """Read a status as shells and bubblewrap tell it (128 and a signal's number) as our own."""
    return 128 - status if 128 < status <= 128 + signal.NSIG else status


def base_environment() -> dict[str, str]:
    """Return our environment without what was meant for this process alone."""
    return {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}


OWN_VARIABLES = (
    families.MARK,  # whoever starts a process puts it into the family
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
