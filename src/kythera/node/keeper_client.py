"""The agent's side of the keeper: ask for sockets and processes, hear what becomes of them.

After `connect_keeper` the client's `sockets` and `processes` are whole: all that earlier agents
left is there to be adopted. They stay current, and each change of a process is also an event.
When the keeper goes away the block is cancelled and ConnectionError raised: the agent exits.

Descriptors: those in `sockets` are the client's (closed by `close` and at the end); a process's
`output` belongs to whoever uses the client, from the moment it appears.
"""

import itertools
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kythera.ground.files import memfd
from kythera.ground.sockets import (
    BACKLOG,
    close_all,
    connect_seqpacket,
    receive_message,
    send_message,
)
from kythera.model.errors import KytheraError
from kythera.node import keeper_protocol as protocol

ANSWER_MS_MAX = 10_000
EVENTS_WAITING_MAX = 65_536


class KeeperRefusal(KytheraError):
    """The keeper could not do what was asked; the message says why."""


@dataclass
class HeldProcess:
    """A child of the keeper."""

    name: str
    pid: int
    tags: dict[str, Any]
    ready: bool
    started: float
    """Unix seconds."""
    output: int | None
    """Read end of its stdout and stderr, non-blocking; yours to close."""


@dataclass(frozen=True)
class Ready:
    """A child listens."""

    name: str
    pid: int


@dataclass(frozen=True)
class Exited:
    """A child ended: `status` is its exit code, or minus the signal."""

    name: str
    pid: int
    status: int


_Question = protocol.Listen | protocol.Close | protocol.Spawn | protocol.Signal | protocol.Announce


class _Waiter:
    """One request under way."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error = ""
        self.started: HeldProcess | None = None


class KeeperClient:
    """One connection to the keeper; make it by `connect_keeper`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sockets: dict[str, int] = {}
        self.processes: dict[str, HeldProcess] = {}
        self.stopping = anyio.Event()
        """Set when the platform stops: do not start again what ends now."""
        send: MemoryObjectSendStream[Ready | Exited]
        receive: MemoryObjectReceiveStream[Ready | Exited]
        send, receive = anyio.create_memory_object_stream(EVENTS_WAITING_MAX)
        self.events = receive
        self._happened = send
        self._sock = sock
        self._ids = itertools.count(1)
        self._waiters: dict[int, _Waiter] = {}
        self._one_sends = anyio.Lock()
        self._whole = anyio.Event()
        self._last: protocol.AnyNote | None = None

    async def listen(self, name: str, path: Path | str, backlog: int = BACKLOG) -> int:
        """Have the keeper listen on a unix socket; return our descriptor of it.

        Asking again for the same name and path returns the same descriptor."""
        request = protocol.Listen(next(self._ids), name, str(path), backlog)
        await self._ask(request)
        return self.sockets[name]

    async def close(self, name: str) -> None:
        """Have the keeper close a socket and unlink its path; unknown names are closed already."""
        request = protocol.Close(next(self._ids), name)
        await self._ask(request)
        close_all([self.sockets.pop(name)] if name in self.sockets else [])

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        control: bool = False,
        tags: Mapping[str, Any] | None = None,
        rlimits: Mapping[str, int] | None = None,
        batch: bool = False,
        uid: int | None = None,
        stage: Mapping[str, str] | None = None,
        cgroups: Sequence[str] = (),
        stop_signal: int = signal.SIGTERM,
        stop_order: int = protocol.STOP_FRONT,
    ) -> HeldProcess:
        """Start a child of the keeper.

        `{socket:NAME}` in argv and env becomes the number of the keeper's socket NAME, `{control}`
        that of the pipe on which the child says `listen`, `{info}` another number of it, on which
        bubblewrap names the process inside, and `{file:PATH}` that of an open file. `env` None is the keeper's own.
        Raises KeeperRefusal: name taken, no such socket, no such program, platform stopping."""
        request = protocol.Spawn(
            id=next(self._ids),
            name=name,
            argv=list(argv),
            env=None if env is None else dict(env),
            stdin=stdin is not None,
            control=control,
            tags=dict(tags or {}),
            rlimits=dict(rlimits or {}),
            batch=batch,
            uid=uid,
            stage=dict(stage or {}),
            cgroups=list(cgroups),
            stop_signal=int(stop_signal),
            stop_order=stop_order,
        )
        given = [] if stdin is None else [memfd(stdin)]
        try:
            started = (await self._ask(request, given)).started
        finally:
            close_all(given)
        assert started is not None, "the keeper answers a spawn with the process"
        return started

    async def signal(self, name: str, signum: int) -> None:
        """Signal a child by its pidfd; a name that is gone is a no-op."""
        request = protocol.Signal(next(self._ids), name, int(signum))
        await self._ask(request)

    async def announce(self, facts: Mapping[str, Any]) -> None:
        """Say that the platform is ready; the keeper prints it once."""
        request = protocol.Announce(next(self._ids), dict(facts))
        await self._ask(request)

    async def _ask(self, request: _Question, descriptors: Sequence[int] = ()) -> _Waiter:
        """Send a request and wait for its answer. Raises KeeperRefusal, ConnectionError."""
        waiter = self._waiters[request.id] = _Waiter()
        try:
            with anyio.fail_after(ANSWER_MS_MAX / 1000):
                await self._send(request, descriptors)
                await waiter.done.wait()
        except TimeoutError:
            raise ConnectionError(f"the keeper did not answer {request!r:.200}") from None
        finally:
            del self._waiters[request.id]
        if waiter.error:
            raise KeeperRefusal(waiter.error)
        return waiter

    async def _send(self, message: protocol.AnyRequest, descriptors: Sequence[int] = ()) -> None:
        try:
            data = protocol.encode(message)
        except protocol.ProtocolError as error:
            raise KeeperRefusal(str(error)) from None
        async with self._one_sends:
            while True:
                try:
                    send_message(self._sock, data, descriptors)
                    return
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)

    async def _listen_to_keeper(self) -> None:
        """Take in all that the keeper tells, until it goes away (ConnectionError)."""
        while True:
            try:
                data, descriptors = receive_message(self._sock)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            if not data:
                raise ConnectionError("the keeper has closed the connection")
            left = self._take_in(protocol.decode_note(data), descriptors)
            close_all(left)
            if isinstance(self._last, protocol.Ping):
                await self._send(protocol.Pong())

    def _take_in(self, note: protocol.AnyNote, descriptors: list[int]) -> list[int]:
        """Update what we know; return the descriptors nobody wants."""
        self._last = note
        match note:
            case protocol.Sockets(items):
                for fact in items:
                    self._hold(fact, descriptors.pop(0))
            case protocol.Processes(items):
                for process in items:
                    self.processes[process.name] = _as_held(process, descriptors.pop(0))
            case protocol.Whole():
                self._whole.set()
            case protocol.Answer():
                self._answered(note, descriptors)
            case protocol.BecameReady(name, pid):
                if name in self.processes:
                    self.processes[name].ready = True
                    self.processes[name].pid = pid
                self._happened.send_nowait(Ready(name, pid))
            case protocol.Ended(name, pid, status):
                self.processes.pop(name, None)
                self._happened.send_nowait(Exited(name, pid, status))
            case protocol.Stopping():
                self.stopping.set()
        return descriptors

    def _answered(self, answer: protocol.Answer, descriptors: list[int]) -> None:
        waiter = self._waiters.get(answer.id, _Waiter())
        waiter.error = answer.error
        if answer.socket is not None:
            self._hold(answer.socket, descriptors.pop(0))
        if answer.process is not None:
            waiter.started = _as_held(answer.process, descriptors.pop(0))
            self.processes[answer.process.name] = waiter.started
        waiter.done.set()

    def _hold(self, fact: protocol.SocketFact, descriptor: int) -> None:
        if fact.name in self.sockets:
            close_all([descriptor])  # asked twice: the first one is in use
        else:
            self.sockets[fact.name] = descriptor

    def _end(self) -> None:
        self._happened.close()
        self.events.close()
        self._sock.close()
        close_all(self.sockets.values())
        self.sockets.clear()


def _as_held(fact: protocol.ProcessFact, output: int) -> HeldProcess:
    return HeldProcess(fact.name, fact.pid, fact.tags, fact.ready, fact.started, output)


@asynccontextmanager
async def connect_keeper(path: Path | str) -> AsyncIterator[KeeperClient]:
    """Connect as the agent; an older agent's connection ends by this.

    Raises ConnectionError when there is no keeper, and from the block when it goes away."""
    try:
        client = KeeperClient(connect_seqpacket(Path(path)))
    except FileNotFoundError:
        raise ConnectionError(f"no keeper listens at {path}") from None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client._listen_to_keeper)
            with anyio.fail_after(ANSWER_MS_MAX / 1000):
                await client._whole.wait()
            yield client
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        gone = group.split(ConnectionError)[1] is None
        if gone or len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        client._end()
