"""Answer connections that wait on the socket of a cell that does not start.

Only ever a handful: once a cell is known to fail, HAProxy refuses at the door by itself.
"""

import socket

import anyio

REFUSED_AT_ONCE_MAX = 1_024
LINGER_S = 1.0
BODY = b"The worker's process does not start.\n"


def _response(retry_after_s: int) -> bytes:
    # The marker keeps HAProxy from rewriting this as an exception of the worker's own.
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
        b"X-Kythera-Cell: refused\r\n"
        b"Connection: close\r\nRetry-After: %d\r\nContent-Length: %d\r\n\r\n%s"
    ) % (retry_after_s, len(BODY), BODY)


async def answer_waiting(listener: socket.socket, retry_after_s: int) -> int:
    """Accept all that waits on `listener` (which is closed here), answer 503, return how many."""
    answer = _response(retry_after_s)
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
