"""One silent connection to each busy process, for what it spares there: a system call a request.

workerd's HTTP server sets a timer before each request's head. When no earlier one is pending, setting
it wakes the event loop, which runs already, through a descriptor of its own: a `write` for each
request under load, some tenth of its cost. A connection on which nobody says anything has an
earlier timer pending. Found with `strace -c` and a debugger in workerd (its HTTP is hyper on tokio:
`Handle::reregister` wakes the driver when a timer is earlier than all it waits for).

Promises: never waits; a connection is followed by the next before workerd's timer of it is over (30 s,
hyper's usual limit of a head), and closed some seconds after its process was busy last, for load comes
in bursts. Nothing depends on it.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

RENEW_S = 10.0
LINGER_S = 10.0
"""How long it stays when its process is busy no more. Both together are less than the 30 s."""


@dataclass
class _Held:
    connection: socket.socket
    since: float
    busy_at: float


class HeldConnections:
    """Those of one machine, by process id. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def hold(self, busy: Mapping[int, str], now: float) -> None:
        """Have one connection to each busy process, whose socket's path is given."""
        for pid in self._held.keys() - busy.keys():
            if now - self._held[pid].busy_at >= LINGER_S:
                self._held.pop(pid).connection.close()
        for pid, path in busy.items():
            held = self._held.get(pid)
            if held is None or now - held.since >= RENEW_S:
                self._renew(pid, path, now)
            self._held[pid].busy_at = now

    def _renew(self, pid: int, path: str, now: float) -> None:
        """The next one is there before the last one goes: some timer is always the earlier."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        with suppress(OSError):  # it has ended, or does not accept now: without it all goes on
            connection.connect(path)
        before, self._held[pid] = self._held.get(pid), _Held(connection, now, now)
        if before is not None:
            before.connection.close()

    def close(self) -> None:
        """Let all go."""
        for held in self._held.values():
            held.connection.close()
        self._held.clear()
