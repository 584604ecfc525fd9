"""The program that tries, with a real cell, how well this host can shut cells in.

`python -m kythera.node.isolation_probe`, an Errand on stdin, an Isolation on stdout. Promises: the
strongest way in which a cell serves is found; what is missing is said in words, with what to do;
whatever cannot be tried is missing. Nothing of what it starts is left.
"""

import contextlib
import os
import select
import shlex
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from kythera.ground.cgroups import Groups, find
from kythera.ground.clock import SystemClock
from kythera.ground.files import memfd, write_atomically
from kythera.ground.forking import (
    Command,
    base_environment,
    exit_status,
    find_program,
    inner_process,
    run_to_end,
    spawn,
)
from kythera.ground.meters import data_bytes
from kythera.ground.sockets import close_all
from kythera.model.errors import KytheraError, SetupError
from kythera.model.limits import Limits
from kythera.model.platform import Isolation
from kythera.node.isolation import NO_SANDBOX, Errand
from kythera.run.config import hello_config
from kythera.run.sandbox import ShutIn, confine
from kythera.run.seccomp import program as seccomp_program
from kythera.run.seccomp import writing
from kythera.run.workerd import find_workerd, workerd_argv

PROBE_S_MAX = 5.0
"""A hello cell that is not ready by then does not start in that way."""
CONTROL_BYTES_MAX = 4_096
ACCOUNT = "probe"
EVERYBODY_RUNS = stat.S_IROTH | stat.S_IXOTH
MEMORY_MIB = 128
CLOCK = SystemClock()
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def examine(seccomp: Path, limits: Limits) -> Isolation:
    """Try, strongest first, and return the first way in which a cell serves. `seccomp` is the
    file to write the filter to."""
    try:
        workerd = find_workerd()
    except SetupError as error:
        return Isolation(weaker=(f"{NO_SANDBOX}: {error.message}",))
    weaker: list[str] = []
    for way, missing in _ways(workerd, seccomp):
        weaker += missing
        try:
            idle = start_hello(workerd, way, limits)
        except KytheraError as error:
            weaker.append(f"{_named(way)} does not work here: {error.message}{_remedy(workerd)}")
            continue
        left = [] if way.bubblewrap and way.seccomp and way.uids else weaker
        left += without_groups(find(f"kythera-probe-{os.getpid()}"))
        return msgspec.structs.replace(way, data_bytes_idle=idle, weaker=tuple(left))
    return Isolation(weaker=tuple(weaker))


def without_groups(groups: Groups) -> list[str]:
    """Say what the lack of control groups means here; remove the ones that were tried."""
    groups.clear()
    said = {
        "memory": "no memory control group: cells are bounded by V8's heap and RLIMIT_DATA alone.",
        "cpu": "no cpu control group: busy cores are shared by the kernel's own rule, process by "
        "process" + (", each cell a session of its own." if autogroups() else "."),
    }
    return [said[name] + " Start the platform as root." for name in groups.missing]


def autogroups() -> bool:
    """Tell whether the kernel shares busy cores between sessions (sched(7), autogroup)."""
    try:
        return AUTOGROUP.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _named(way: Isolation) -> str:
    parts = ["bubblewrap"] if way.bubblewrap else ["a cell without a sandbox"]
    parts += ["system calls filtered"] if way.seccomp else []
    parts += ["a uid for each account"] if way.uids else []
    return ", ".join(parts)


def _remedy(workerd: Path) -> str:
    """Return what to do when a uid of its own cannot run the program, as where root's umask is 077."""
    if workerd.stat().st_mode & EVERYBODY_RUNS == EVERYBODY_RUNS:
        return ""
    return f" (others may not run it: chmod a+rx {shlex.quote(str(workerd))})"


def _ways(workerd: Path, seccomp: Path) -> Iterator[tuple[Isolation, list[str]]]:
    """Yield ways to shut a cell in, strongest first, each with what it is known to lack."""
    bare = (Isolation(), [f"{NO_SANDBOX}."])
    try:
        bubblewrap = find_program("bwrap")
    except SetupError:
        yield Isolation(), [f"{NO_SANDBOX}: apt-get install bubblewrap."]
        return
    whole = Isolation(bubblewrap=bubblewrap, libraries=libraries(workerd))
    missing: list[str] = []
    try:
        outward = seccomp.with_name(f"{seccomp.stem}-outward{seccomp.suffix}")
        write_atomically(seccomp, seccomp_program(), 0o444)
        write_atomically(outward, seccomp_program(outward=True), 0o444)
        write_atomically(Path(writing(str(seccomp))), seccomp_program(storing=True), 0o444)
        files = {"seccomp": str(seccomp), "seccomp_outward": str(outward)}
        whole = msgspec.structs.replace(whole, **files)
    except (KytheraError, OSError) as error:
        missing.append(f"cells may make any system call: {error}")
    shared = "all cells run under one uid, this platform's own"
    if os.geteuid() == 0:
        yield msgspec.structs.replace(whole, uids=True), missing
        yield whole, [f"{shared}."]
    else:
        yield whole, [*missing, f"{shared}: start it as root."]
    if whole.seccomp:
        unfiltered = msgspec.structs.replace(whole, seccomp="", seccomp_outward="")
        yield unfiltered, ["cells may make any system call."]
    yield bare


def libraries(program: Path) -> tuple[str, ...]:
    """Return the files that a program is linked with, as the dynamic linker finds them (ldd(1))."""
    command = Command(("ldd", str(program)), base_environment())
    _, said = run_to_end(command, b"", within_s=PROBE_S_MAX)
    words = (word for line in said.decode(errors="replace").splitlines() for word in line.split())
    return tuple(dict.fromkeys(word for word in words if word.startswith("/")))


def start_hello(workerd: Path, way: Isolation, limits: Limits) -> int:
    """Start a cell in this way until it listens, and end it; return what it has reserved (bytes of
    RLIMIT_DATA). Raises KytheraError with what it said instead."""
    opened: list[int] = []
    with tempfile.TemporaryDirectory(prefix="kythera-probe-") as folder:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{folder}/hello.sock")
        listening.listen()
        try:
            control, theirs = os.pipe2(os.O_CLOEXEC)
            said, errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            opened += [control, theirs, said, errors]
            given = {0: memfd(hello_config()), 1: errors, 2: errors, 3: listening.fileno()}
            given |= {4: theirs, 5: theirs}
            opened.append(given[0])
            if way.seccomp:
                given[6] = os.open(way.seccomp, os.O_RDONLY | os.O_CLOEXEC)
                opened.append(given[6])
            return _started(workerd, way, limits, given, (control, said))
        finally:
            listening.close()
            close_all(opened)


def _started(
    workerd: Path,
    way: Isolation,
    limits: Limits,
    given: dict[int, int],
    heard: Sequence[int],
) -> int:
    control, said = heard
    cell = ShutIn(workerd, workerd_argv({"http": "3"}, "4"), ACCOUNT, MEMORY_MIB)
    shut = confine(cell, way, limits, info="5", seccomp="6")
    pid, pidfd = spawn(
        Command(shut.argv, base_environment(), given, shut.rlimits, uid=shut.uid, stage=shut.stage)
    )
    inner = pidfd
    try:
        text, until = b"", CLOCK.monotonic() + PROBE_S_MAX
        while b'"listen"' not in text:
            left_s = max(0.0, until - CLOCK.monotonic())
            ready, _, _ = select.select([control, pidfd], [], [], left_s)
            if control not in ready:
                raise KytheraError(_complaint(said))
            text += os.read(control, CONTROL_BYTES_MAX)
        found = inner_process(text, pid) if way.bubblewrap else None
        inner = pidfd if found is None else found[1]
        return data_bytes(pid if found is None else found[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(inner, signal.SIGKILL)
        if not select.select([pidfd], [], [], PROBE_S_MAX)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], PROBE_S_MAX)
        exit_status(pidfd)
        close_all({inner, pidfd})


def _complaint(said: int) -> str:
    try:
        text = os.read(said, CONTROL_BYTES_MAX).decode(errors="replace")
    except BlockingIOError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"it was not ready within {PROBE_S_MAX:.0f} s."


def main() -> int:
    """Read an errand from stdin, write the Isolation to stdout."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    found = examine(Path(errand.seccomp), errand.limits)
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
