"""The keeper's child processes: forked, watched by pidfd, heard on two pipes, reaped.

Each child leads its own process group; when it ends, what is left of the group is killed, so
nobody outlives their leader. Its stdout and stderr are one pipe whose read end stays here: the
agent reads its own copy, and while there is no agent the keeper throws away what would fill the
pipe (the oldest half), so that no cell ever blocks on a log line.
"""

import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from kythera.ground.forking import (
    Command,
    base_environment,
    exit_status,
    inner_process,
    spawn,
    told_by_shell,
)
from kythera.ground.sockets import close_all
from kythera.model.errors import SetupError
from kythera.node.keeper_loop import Loop
from kythera.node.keeper_protocol import (
    NAME,
    ProcessFact,
    ProtocolError,
    Spawn,
    fill,
)
from kythera.node.keeper_sockets import HeldSockets

PIPE_BYTES = 1024 * 1024
LARGE_PIPES_MAX = 32
"""So many children get a pipe of PIPE_BYTES; the kernel allows an unprivileged user 64 MiB."""
CONTROL_BYTES_MAX = 64 * 1024
"""A child that has written this much on its control pipe without `listen` is not listened to."""
RELIEF_S = 0.05
"""How often full pipes are looked for while there is no agent."""


class Witness(Protocol):
    """Who is told what becomes of children."""

    def became_ready(self, name: str, pid: int) -> None:
        """A child listens."""

    def ended(self, name: str, pid: int, status: int) -> None:
        """A child is gone."""


@dataclass
class HeldChild:
    """One running child."""

    name: str
    pid: int
    pidfd: int
    started: float
    stop_signal: int
    stop_order: int
    tags: dict[str, Any] = field(default_factory=dict)
    ready: bool = False
    output: int | None = None
    control: int | None = None
    heard: bytes = b""
    """What came on the control pipe before `listen`."""
    inner: int | None = None
    """Pid of the process inside bubblewrap; `pid` is then bubblewrap's, which ends with it."""
    inner_pidfd: int | None = None
    put_off: int | None = None
    """A signal that is sent when it is ready."""
    on_end: Callable[[int], None] | None = None
    """For the keeper's own programs: called instead of the witness."""

    @property
    def working_pid(self) -> int:
        """The process that does the work: the one inside, where there is one."""
        return self.pid if self.inner is None else self.inner

    def signal(self, signum: int) -> None:
        """Signal this very process, whatever became of its pid.

        The first process of a namespace does not get a SIGTERM that it has no handler for yet: one that
        is still starting gets it when it is ready."""
        if signum == signal.SIGTERM and self.inner is not None and not self.ready:
            self.put_off = signum
            return
        inner = self.inner_pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd if inner is None else inner, signum)

    def kill_group(self) -> None:
        """Kill the process and all it started that stayed in its group.

        The one inside bubblewrap takes its whole namespace along, and bubblewrap ends with it: so
        somebody is there to reap it."""
        self.signal(signal.SIGKILL)
        if self.inner is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Children:
    """All child processes, by name."""

    def __init__(self, loop: Loop, sockets: HeldSockets, witness: Witness) -> None:
        self._loop = loop
        self._sockets = sockets
        self._witness = witness
        self._children: dict[str, HeldChild] = {}

    def __iter__(self) -> Iterator[HeldChild]:
        return iter(list(self._children.values()))

    def get(self, name: str) -> HeldChild | None:
        """Return a child by name."""
        return self._children.get(name)

    def facts(self) -> Iterator[tuple[ProcessFact, int]]:
        """Yield the agent's children (not the keeper's own programs), each with its output."""
        for child in self._children.values():
            if child.output is not None:
                yield fact_of(child), child.output

    def start_program(
        self,
        name: str,
        command: Command,
        stop_order: int,
        on_end: Callable[[int], None],
    ) -> HeldChild:
        """Start one of the keeper's own programs; it writes to our stderr. Raises SetupError."""
        descriptors = {1: 2, 2: 2, **command.descriptors}
        pid, pidfd = spawn(replace(command, descriptors=descriptors))
        child = HeldChild(
            name, pid, pidfd, self._loop.unix_time(), signal.SIGTERM, stop_order, on_end=on_end
        )
        return self._hold(child)

    def spawn(self, request: Spawn, stdin: int | None) -> HeldChild:
        """Start a child for the agent. Raises ProtocolError; then nothing was started."""
        if not NAME.fullmatch(request.name):
            raise ProtocolError(f"{request.name!r} cannot be a name")
        if request.name in self._children:
            raise ProtocolError(f"the name {request.name!r} is taken: pid {self._pid(request)}")
        if not request.argv:
            raise ProtocolError("there is no program in an empty argv")
        pipes: list[int] = []
        try:
            child = self._start(request, stdin, pipes)
        except BaseException as error:
            close_all(pipes)
            if isinstance(error, (OSError, SetupError, AttributeError, ValueError)):
                raise ProtocolError(f"cannot start {request.name!r}: {error}") from error
            raise
        return self._hold(child)

    def _pid(self, request: Spawn) -> int:
        return self._children[request.name].pid

    def _start(self, request: Spawn, stdin: int | None, pipes: list[int]) -> HeldChild:
        env = base_environment() if request.env is None else request.env
        filled = fill(request.argv, env, control=request.control)
        descriptors = {n: self._sockets.descriptor(s) for s, n in filled.sockets.items()}
        opened = []
        for path, n in filled.files.items():
            descriptors[n] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.append(descriptors[n])
        pipes += opened
        output, output_end = _pipe(pipes)
        if len(self._children) < LARGE_PIPES_MAX:
            with contextlib.suppress(OSError):
                fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        descriptors |= {1: output_end, 2: output_end}
        if stdin is not None:
            descriptors[0] = stdin
        control, control_end = None, None
        if filled.control is not None:
            control, control_end = _pipe(pipes)
            descriptors[filled.control] = control_end
            if filled.info is not None:
                descriptors[filled.info] = control_end
        pid, pidfd = spawn(
            Command(
                filled.argv,
                filled.env,
                descriptors,
                request.rlimits,
                request.batch,
                uid=request.uid,
                stage=request.stage,
                cgroups=request.cgroups,
            )
        )
        close_all(end for end in (output_end, control_end, *opened) if end is not None)
        return HeldChild(
            request.name,
            pid,
            pidfd,
            self._loop.unix_time(),
            request.stop_signal,
            request.stop_order,
            request.tags,
            output=output,
            control=control,
        )

    def _hold(self, child: HeldChild) -> HeldChild:
        self._children[child.name] = child
        self._loop.watch(child.pidfd, lambda: self._reap(child))
        if child.control is not None:
            self._loop.watch(child.control, lambda: self._hear(child))
        return child

    def _hear(self, child: HeldChild) -> None:
        """Read a control pipe; its first line with a `listen` event means ready."""
        assert child.control is not None, "only open control pipes are watched"
        try:
            data = os.read(child.control, CONTROL_BYTES_MAX)
        except BlockingIOError:
            return
        if not data:
            self._close_control(child)
            return
        if child.ready:
            return
        child.heard += data
        if child.inner is None and (inner := inner_process(child.heard, child.pid)) is not None:
            child.inner, child.inner_pidfd = inner
        *lines, _ = child.heard.split(b"\n")
        if any(map(_is_listen, lines)):
            child.ready, child.heard = True, b""
            if child.put_off is not None:
                child.signal(child.put_off)
            self._witness.became_ready(child.name, child.working_pid)
        elif len(child.heard) > CONTROL_BYTES_MAX:
            self._close_control(child)

    def _close_control(self, child: HeldChild) -> None:
        if child.control is not None:
            self._loop.forget(child.control)
            os.close(child.control)
            child.control = None

    def _reap(self, child: HeldChild) -> None:
        # The group goes first: while its leader is unreaped, the kernel cannot reuse its number.
        child.kill_group()
        status = exit_status(child.pidfd)
        if status is None:
            return
        if child.control is not None:
            self._hear(child)
        self._close_control(child)
        self._loop.forget(child.pidfd)
        close_all(fd for fd in (child.pidfd, child.inner_pidfd, child.output) if fd is not None)
        status = status if child.inner is None else told_by_shell(status)
        del self._children[child.name]
        if child.on_end is not None:
            child.on_end(status)
        else:
            self._witness.ended(child.name, child.pid, status)

    def relieve(self) -> None:
        """Throw away the older half of each output pipe that may soon be full."""
        for child in self._children.values():
            if child.output is not None:
                _relieve(child.output)


def _pipe(opened: list[int]) -> tuple[int, int]:
    """Make a pipe whose read end does not block; note both ends in `opened`."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    opened += [read_end, write_end]
    os.set_blocking(read_end, False)
    return read_end, write_end


def _is_listen(line: bytes) -> bool:
    try:
        event = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return isinstance(event, dict) and event.get("event") == "listen"


def _relieve(pipe: int) -> None:
    # Half a page for each write is the worst that the kernel makes of a pipe's room, so one that
    # holds less than half its size can be full; a quarter leaves time until the next look.
    size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    waiting = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    if waiting > size // 4:
        with contextlib.suppress(BlockingIOError):
            os.read(pipe, waiting // 2)


def fact_of(child: HeldChild) -> ProcessFact:
    """Return what the agent may know of a child."""
    return ProcessFact(child.name, child.working_pid, child.tags, child.ready, child.started)
