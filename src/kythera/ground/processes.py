"""Helper processes of one task: started, read, awaited and killed within one `async with`.

`child` promises that nothing of the process is left when the block ends, however it ends, nor
when our own process is killed. What must outlive its starter is the keeper's, not this module's.
"""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio

from kythera.ground import forking, meters
from kythera.ground.files import memfd
from kythera.ground.forking import Command, base_environment, exit_status, spawn

__all__ = ["Child", "Command", "Output", "child", "family", "spawn"]

OUTPUT_BYTES_MAX = 4 * 1024 * 1024
"""What `read_output` keeps of each stream; the rest is read and dropped, so nobody blocks."""
CHUNK_BYTES = 64 * 1024
INNER_END_S_MAX = 2.0


class Output(NamedTuple):
    """All that a child wrote."""

    stdout: bytes
    stderr: bytes


class Child:
    """A running helper. `stdout` and `stderr` are non-blocking read ends, or None."""

    def __init__(self, pid: int, pidfd: int, stdout: int | None, stderr: int | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.status: int | None = None
        """Exit code, or minus a signal's number; None until `wait` has seen the end."""
        self._pidfd = pidfd
        self._inner: tuple[int, int] | None = None
        self._one_waits = anyio.Lock()

    async def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal that ended it."""
        async with self._one_waits:
            while self.status is None:
                await anyio.wait_readable(self._pidfd)
                self.status = exit_status(self._pidfd)
        return self.status

    async def read_output(self) -> Output:
        """Read stdout and stderr until the child (and whoever it gave them to) closed both."""
        kept = bytearray(), bytearray()
        async with anyio.create_task_group() as tasks:
            for stream, into in zip((self.stdout, self.stderr), kept, strict=True):
                if stream is not None:
                    tasks.start_soon(self._read_to_end, stream, into)
        return Output(*map(bytes, kept))

    async def _read_to_end(self, stream: int, kept: bytearray) -> None:
        while chunk := await read_some(stream):
            kept += chunk[: max(0, OUTPUT_BYTES_MAX - len(kept))]

    def signal(self, signum: int) -> None:
        """Send a signal to this very process; a no-op once it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def look_inside(self, said: bytes) -> None:
        """Take what bubblewrap has said (`--info-fd`): the process inside is the one that works."""
        if self._inner is None and self.status is None:
            self._inner = forking.inner_process(said, self.pid)

    @property
    def working_pid(self) -> int:
        """The process that does the work: the one inside bubblewrap, where there is one."""
        return self.pid if self._inner is None else self._inner[0]

    def cpu_seconds(self) -> float:
        """Return the CPU time burnt so far; 0 once it has been awaited."""
        return meters.cpu_seconds(self.working_pid) if self.status is None else 0.0

    async def _end(self) -> None:
        if self._inner is not None:
            inner = self._inner[1]
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(inner, signal.SIGKILL)
            os.close(inner)
            with anyio.move_on_after(INNER_END_S_MAX):  # bubblewrap reaps it, and ends
                await self.wait()
        if self.status is None:
            self.signal(signal.SIGKILL)  # alone reaches a child that has no group of its own yet
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # and what it started
            await self.wait()
        for descriptor in (self._pidfd, self.stdout, self.stderr):
            if descriptor is not None:
                os.close(descriptor)


async def read_some(descriptor: int, n_bytes: int = CHUNK_BYTES) -> bytes:
    """Read what a non-blocking descriptor has, waiting until it has something; b"" at its end."""
    while True:
        try:
            return os.read(descriptor, n_bytes)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)


@asynccontextmanager
async def child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes | None = None,
    capture: bool = True,
    log: int | None = None,
    rlimits: Mapping[str, int] | None = None,
    uid: int | None = None,
    stage: Mapping[str, str] | None = None,
) -> AsyncIterator[Child]:
    """Run a helper for the length of the block.

    `pass_fds` keep their numbers in the child; `stdin` is given as a file; without `capture` its
    output goes to our stderr; `log` is a descriptor of ours that takes its stderr. `rlimits`, `uid` and
    `stage`: see Command. Raises SetupError when there is no such program."""
    with contextlib.ExitStack() as ours:

        def kept(descriptor: int) -> int:
            ours.callback(os.close, descriptor)
            return descriptor

        given = {fd: fd for fd in pass_fds}
        if stdin is not None:
            given[0] = kept(memfd(stdin))
        read_ends: list[int | None] = []
        with contextlib.ExitStack() as unless_started:
            for number in (1, 2):
                if not capture or (number == 2 and log is not None):
                    given[number] = 2 if log is None else log
                    read_ends.append(None)
                    continue
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(read_end, False)
                unless_started.callback(os.close, read_end)
                read_ends.append(read_end)
                given[number] = kept(write_end)
            environment = base_environment() if env is None else env
            command = Command(argv, environment, given, rlimits or {}, uid=uid, stage=stage or {})
            pid, pidfd = forking.spawn(command)
            unless_started.pop_all()
    process = Child(pid, pidfd, *read_ends)
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await process._end()


def family(pid: int) -> list[int]:
    """Return all that descend from a process, without itself; those that end meanwhile may miss."""
    found: list[int] = []
    queue = [pid]
    while queue:
        for listing in Path(f"/proc/{queue.pop()}").glob("task/*/children"):
            with contextlib.suppress(OSError):
                below = [int(word) for word in listing.read_text().split()]
                found += below
                queue += below
    return found
