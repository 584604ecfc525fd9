"""The keeper's side of its socket: one agent at a time, told everything, obeyed at once.

A newer connection replaces the older. What the agent is slow to read waits here, up to a limit;
an agent that is silent too long, or too far behind, is reported as hung.
"""

import errno
import os
import socket
from collections import deque
from typing import Any, Protocol

import msgspec

from kythera.ground.sockets import close_all, receive_message, send_message
from kythera.node import keeper_protocol as protocol
from kythera.node.keeper_children import Children, fact_of
from kythera.node.keeper_loop import Loop
from kythera.node.keeper_sockets import HeldSockets

NOTES_WAITING_MAX = 20_000
RETRY_S = 0.01


class Host(Protocol):
    """What the server asks of the keeper."""

    def announced(self, facts: dict[str, Any]) -> None:
        """The agent says that the platform is ready."""

    def may_start(self, stop_order: int) -> bool:
        """Tell whether children of this order may still be started."""

    def agent_connected(self, connected: bool) -> None:
        """An agent came, or went."""


class KeeperServer:
    """Accepts agents and does what the newest one says."""

    def __init__(self, loop: Loop, sockets: HeldSockets, children: Children, host: Host) -> None:
        self._loop = loop
        self._sockets = sockets
        self._children = children
        self._host = host
        self._agent: socket.socket | None = None
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._heard_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether an agent is there."""
        return self._agent is not None

    def silent_s(self) -> float:
        """Return for how long the connected agent has said nothing."""
        return self._loop.now() - self._heard_at if self._agent else 0.0

    def serve(self, listener: socket.socket) -> None:
        """Take agents from `listener` from now on."""
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            agent, _ = listener.accept()
        except OSError:
            return
        self.disconnect()
        agent.setblocking(False)
        self._agent, self._heard_at = agent, self._loop.now()
        self._loop.watch(agent.fileno(), self._turn)
        self._host.agent_connected(True)
        self._tell_all()

    def disconnect(self) -> None:
        """End the agent's connection; it will exit."""
        if self._agent is None:
            return
        self._loop.forget(self._agent.fileno())
        self._agent.close()
        self._agent = None
        while self._outbox:
            close_all(self._outbox.popleft()[1])
        self._host.agent_connected(False)

    def _tell_all(self) -> None:
        for items, descriptors in protocol.batches(self._sockets.facts()):
            self._send(protocol.Sockets(items), descriptors)
        for items, descriptors in protocol.batches(self._children.facts()):
            self._send(protocol.Processes(items), descriptors)
        self._send(protocol.Whole())

    def tell(self, note: protocol.AnyNote) -> None:
        """Tell the agent, if there is one, what has happened."""
        self._send(note)

    def ping(self) -> None:
        """Ask the agent for a sign of life, unless it has not even read the last questions."""
        if not self._outbox:
            self._send(protocol.Ping())

    def _send(self, note: protocol.AnyNote, descriptors: list[int] | None = None) -> None:
        if self._agent is None:
            return
        # Copies, because a child may end, and its pipe be closed, before this is on its way.
        copies = [os.dup(descriptor) for descriptor in descriptors or ()]
        self._outbox.append((protocol.encode(note), copies))
        if len(self._outbox) > NOTES_WAITING_MAX:
            self.disconnect()
        elif len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox and self._agent is not None:
            data, descriptors = self._outbox[0]
            try:
                send_message(self._agent, data, descriptors)
            except BlockingIOError:
                self._loop.watch(self._agent.fileno(), self._turn, write=True)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # too many descriptors under way: a moment
                    self._loop.after(RETRY_S, self._flush)
                else:
                    self.disconnect()
                return
            self._outbox.popleft()
            close_all(descriptors)
        if self._agent is not None:
            self._loop.watch(self._agent.fileno(), self._turn)

    def _turn(self) -> None:
        if self._outbox:
            self._flush()
        if self._agent is None:
            return
        try:
            data, descriptors = receive_message(self._agent)
        except BlockingIOError:
            return
        except OSError:
            self.disconnect()
            return
        try:
            if data:
                self._heard_at = self._loop.now()
                self._obey(protocol.decode_request(data), descriptors)
            else:
                self.disconnect()
        except msgspec.MsgspecError:
            self.disconnect()  # not our agent's language; the next one may do better
        finally:
            close_all(descriptors)

    def _obey(self, request: protocol.AnyRequest, given: list[int]) -> None:
        if isinstance(request, protocol.Pong):
            return
        answer, descriptors = protocol.Answer(id=request.id), list[int]()
        try:
            answer, descriptors = self._do(request, given)
        except protocol.ProtocolError as error:
            answer = protocol.Answer(id=request.id, error=str(error))
        self._send(answer, descriptors)

    def _do(
        self, request: protocol.AnyRequest, given: list[int]
    ) -> tuple[protocol.Answer, list[int]]:
        match request:
            case protocol.Listen(number, name, path, backlog):
                fact = self._sockets.listen(name, path, backlog)
                descriptor = self._sockets.descriptor(name)
                return protocol.Answer(id=number, socket=fact), [descriptor]
            case protocol.Close(number, name):
                self._sockets.close(name)
            case protocol.Spawn(id=number):
                return self._spawn(request, given)
            case protocol.Signal(number, name, signum):
                child = self._children.get(name)
                if child is not None and child.output is not None:
                    child.signal(signum)
            case protocol.Announce(number, facts):
                self._host.announced(facts)
            case _:
                raise AssertionError(request)
        return protocol.Answer(id=number), []

    def _spawn(
        self, request: protocol.Spawn, given: list[int]
    ) -> tuple[protocol.Answer, list[int]]:
        if not self._host.may_start(request.stop_order):
            raise protocol.ProtocolError("the platform is stopping")
        if request.stdin != bool(given):
            raise protocol.ProtocolError("stdin was promised and not sent")
        child = self._children.spawn(request, given[0] if request.stdin else None)
        assert child.output is not None, "a child of the agent's has an output"
        return protocol.Answer(id=request.id, process=fact_of(child)), [child.output]
