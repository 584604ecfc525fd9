"""How a running fleet is told its orders: one JSON line each way on a unix socket in its folder.

Promises: one order at a time; every order is answered, a refused one by
`{"error": {"message", "remedy"}}`. The socket is 0600, for faults are the owner's to order.
"""

import json
import socket
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, SetupError
from kythera.sim.one_host.fleet import HostedFleet
from kythera.sim.one_host.orders import Order

SOCKET_NAME = "fleet.sock"
ORDER_BYTES_MAX = 64 * 1024
ANSWER_S_MAX = 120.0
"""A machine that is revived may have to start."""
READ_S_MAX = 5.0


def socket_path(folder: Path) -> Path:
    """Return where a fleet listens; in its folder unless that path is too long."""
    return Layout(folder).run / SOCKET_NAME


class Control:
    """Hands orders to the fleet, one after the other."""

    def __init__(self, fleet: HostedFleet) -> None:
        self._fleet = fleet
        self._one_at_a_time = anyio.Lock()

    async def serve(
        self,
        path: Path,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve for ever on a unix socket, which is removed at the end; started once it listens."""
        path.unlink(missing_ok=True)
        listener = await anyio.create_unix_listener(path, mode=0o600)
        task_status.started()
        try:
            async with listener:
                await listener.serve(self._answer)
        finally:
            path.unlink(missing_ok=True)

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                with anyio.fail_after(READ_S_MAX):
                    buffered = BufferedByteReceiveStream(stream)
                    line = await buffered.receive_until(b"\n", ORDER_BYTES_MAX)
                answer = await self._obeyed(line)
                await stream.send(json.dumps(answer).encode() + b"\n")
            except (TimeoutError, anyio.BrokenResourceError, anyio.IncompleteRead):
                return  # whoever asked has gone

    async def _obeyed(self, line: bytes) -> dict[str, Any]:
        try:
            order = msgspec.json.decode(line, type=Order)
            async with self._one_at_a_time:
                return await self._fleet.obey(order)
        except KytheraError as error:
            return {"error": {"message": error.message, "remedy": error.remedy}}
        except msgspec.MsgspecError as error:
            return {"error": {"message": f"no order: {error}.", "remedy": ""}}


def send_order(folder: Path, order: Order) -> dict[str, Any]:
    """Give an order to the fleet in a folder; return how it is then. Raises KytheraError.

    It blocks: for commands and tests."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S_MAX)
            connection.connect(str(socket_path(folder)))
            connection.sendall(msgspec.json.encode(order) + b"\n")
            raw = b"".join(iter(lambda: connection.recv(65_536), b""))
        answer = json.loads(raw)
    except (OSError, ValueError) as error:
        raise SetupError(
            f"no fleet answers in {folder} ({type(error).__name__}).",
            remedy=f"Start one: kythera fleet up --state {folder}",
        ) from None
    assert isinstance(answer, dict)
    if refused := answer.get("error"):
        raise KytheraError(str(refused["message"]), remedy=str(refused["remedy"]))
    return answer
