"""A wire between client and server that a test can cut, or make lose the server's answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from kythera.distribute.address import LogAddress


class Wire:
    """Forwards bytes both ways until told otherwise."""

    def __init__(self, to: LogAddress) -> None:
        self.to = to
        self.address = to
        self.swallow_answers = False
        """Whether what the server says gets lost while what the client says arrives."""
        self._scopes: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        """Close every connection that goes through; new ones are taken."""
        for scope in list(self._scopes):
            scope.cancel()

    async def carry(self, client: SocketStream) -> None:
        """Carry one connection to its end."""
        host, port = self.to.url.removeprefix("nats://").split(":")
        async with client:
            try:
                server = await anyio.connect_tcp(host, int(port))
            except OSError:
                return
            async with server, anyio.create_task_group() as tasks:
                self._scopes.add(tasks.cancel_scope)
                tasks.start_soon(self._pump, server, client, True, tasks.cancel_scope)
                await self._pump(client, server, False, tasks.cancel_scope)
            self._scopes.discard(tasks.cancel_scope)

    async def _pump(
        self, source: ByteStream, to: ByteStream, answers: bool, scope: anyio.CancelScope
    ) -> None:
        try:
            async for chunk in source:
                if not (answers and self.swallow_answers):
                    await to.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def wired(to: LogAddress) -> AsyncIterator[Wire]:
    """Lay a wire to a server for the length of the block."""
    wire = Wire(to)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        port = listener.extra(SocketAttribute.local_port)
        wire.address = LogAddress(
            url=f"nats://127.0.0.1:{port}", user=to.user, password=to.password
        )
        tasks.start_soon(listener.serve, wire.carry)
        yield wire
        tasks.cancel_scope.cancel()
