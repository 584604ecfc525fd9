"""Answer connections that wait on the socket of a cell that does not start.

Only ever a handful: once a cell is known to fail, HAProxy refuses at the door by itself.
"""

import socket

import anyio

REFUSED_AT_ONCE_MAX = 1_024
LINGER_S = 1.0


async def answer_waiting(listener: socket.socket, answer: bytes) -> int:
    """Accept all that waits on `listener` (which is closed here), send `answer`, return how many."""
    refused = 0
    with listener:
        listener.setblocking(False)
        async with anyio.create_task_group() as tasks:
            while refused < REFUSED_AT_ONCE_MAX:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                refused += 1
                tasks.start_soon(_answer, connection, answer)
    return refused


async def _answer(connection: socket.socket, answer: bytes) -> None:
    """Send the answer, then read on until the peer is done, lest a reset overtakes it."""
    connection.setblocking(False)
    with connection, anyio.move_on_after(LINGER_S):
        try:
            connection.send(answer)
            connection.shutdown(socket.SHUT_WR)
            while True:
                await anyio.wait_readable(connection)
                if not connection.recv(65_536):
                    return
        except OSError:
            return
