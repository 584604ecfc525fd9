"""The listening sockets that the keeper holds, by name, for as long as the platform lives.

Doors (`http`, `https`, `api`, `mesh`), `tail` and `peers` are there from the start; the agent asks for the rest.
Under systemd each is also kept by systemd, and taken back at the next start when it still is
what was asked for: same address, or a unix path that still leads to it.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from kythera.ground.clock import wait_until
from kythera.ground.layout import Layout
from kythera.ground.sockets import (
    PortInUse,
    address_of,
    format_address,
    listen_tcp,
    listen_unix,
    parse_address,
)
from kythera.node.keeper_protocol import NAME, ProtocolError, SocketFact
from kythera.node.systemd import Notifier

OWN_NAMES = ("http", "https", "api", "mesh", "tail", "peers")
REMNANT_WAIT_S = 3.0
"""After a killed keeper, how long its dying children may still hold a port."""
UNIX_PATH_BYTES_MAX = 107


class HeldSockets:
    """Every listening socket of this machine."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._held: dict[str, tuple[socket.socket, str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def descriptor(self, name: str) -> int:
        """Return our descriptor of a socket. Raises ProtocolError for an unknown name."""
        if name not in self._held:
            raise ProtocolError(f"the keeper holds no socket named {name!r}")
        return self._held[name][0].fileno()

    def facts(self) -> Iterator[tuple[SocketFact, int]]:
        """Yield every socket with its descriptor."""
        for name, (sock, path) in self._held.items():
            yield SocketFact(name, path), sock.fileno()

    def adopt(self, found: dict[str, socket.socket]) -> None:
        """Take back what systemd kept for us; drop unix sockets whose path leads nowhere."""
        for name, sock in found.items():
            path = str(sock.getsockname()) if sock.family == socket.AF_UNIX else ""
            if NAME.fullmatch(name) and (not path or Path(path).exists()):
                self._held[name] = (sock, path)
            else:
                sock.close()
                self._notifier.drop(name)

    def _hold(self, name: str, sock: socket.socket, path: str) -> None:
        self._held[name] = (sock, path)
        self._notifier.keep(name, sock.fileno())

    def open_door(self, name: str, wanted: str, before: str, *, patient: bool) -> str:
        """Listen on TCP `wanted`; return the address it got.

        Port 0 tries the port it had `before`. `patient` waits for remnants of a killed platform.
        Raises SetupError with a remedy."""
        host, port = parse_address(wanted)
        if name in self._held:
            address = address_of(self._held[name][0])
            if address == format_address(host, port or parse_address(address)[1]):
                return address
            self._let_go(name)
        sock = self._bind(name, _same_port(wanted, before), wanted, patient=patient)
        self._hold(name, sock, "")
        return address_of(sock)

    def _bind(self, name: str, first: str, wanted: str, *, patient: bool) -> socket.socket:
        bound: list[socket.socket] = []

        def free() -> bool:
            with contextlib.suppress(PortInUse):
                bound.append(listen_tcp(first, option=f"--{name}"))
            return bool(bound)

        wait_until(free, within_s=REMNANT_WAIT_S if patient else 0)
        return bound[0] if bound else listen_tcp(wanted, option=f"--{name}")

    def open_private(self, name: str, path: Path, mode: int = 0o600) -> None:
        """Listen on a unix socket of the platform's own; a cell with a uid of its own that is to
        see it needs the `mode` 0666, while the folders above are ours alone."""
        if name not in self._held:
            self._hold(name, listen_unix(path), str(path))
        path.chmod(mode)

    def remove_stale(self, layout: Layout) -> None:
        """Unlink the unix sockets that nobody holds any more."""
        ours = {path for _, path in self._held.values()}
        for folder in (layout.run, layout.cells):
            for path in folder.glob("*.sock"):
                if str(path) not in ours:
                    path.unlink(missing_ok=True)

    def listen(self, name: str, path: str, backlog: int) -> SocketFact:
        """Listen on a unix socket for the agent. Raises ProtocolError."""
        if not NAME.fullmatch(name) or not Path(path).is_absolute():
            raise ProtocolError(f"cannot listen as {name!r} on {path!r}: bad name or path")
        if name in self._held:
            if self._held[name][1] != path:
                raise ProtocolError(f"{name!r} listens on {self._held[name][1]}, not on {path}")
            return SocketFact(name, path)
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            raise ProtocolError(f"{path} is too long for a unix socket")
        try:
            sock = listen_unix(Path(path), backlog)
        except OSError as error:
            raise ProtocolError(f"cannot listen on {path}: {error.strerror}") from error
        self._hold(name, sock, path)
        return SocketFact(name, path)

    def close(self, name: str) -> None:
        """Close a socket of the agent's; a no-op for an unknown name. Raises ProtocolError."""
        if name in OWN_NAMES:
            raise ProtocolError(f"{name!r} stays open for as long as the platform lives")
        if name in self._held:
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        sock, path = self._held.pop(name)
        self._notifier.drop(name)
        sock.close()
        if path:
            _unlink(path)

    def close_all(self) -> None:
        """Close and unlink everything: the platform has stopped.

        Not told to systemd: it drops them itself, unless it is to start us again."""
        for sock, path in self._held.values():
            sock.close()
            if path:
                _unlink(path)
        self._held.clear()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _same_port(wanted: str, before: str) -> str:
    """Return the address to try first: with port 0, what it was at the last start."""
    host, port = parse_address(wanted)
    if port or not before:
        return wanted
    host_before, port_before = parse_address(before)
    return before if host == host_before and port_before else wanted
