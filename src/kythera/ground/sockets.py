"""Sockets as the platform uses them: doors (TCP), unix sockets, messages with descriptors.

Errors on the way to a door are the operator's business, so they are `SetupError`s that say what
to do. A message between keeper and agent is one datagram of a SOCK_SEQPACKET connection: it
arrives whole, in order, or the connection is over.
"""

import array
import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from kythera.model.errors import SetupError

BACKLOG = 4096
MESSAGE_BYTES_MAX = 128 * 1024
"""Below the kernel's default send buffer (208 KiB), so that one message always fits."""
DESCRIPTORS_MAX = 60
"""In one message; the kernel's own limit is 253."""


def parse_address(address: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets). Raises SetupError for anything else."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = bare and (":" not in bare or bare != host)
    if not colon or not plain or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SetupError(
            f"{address!r} is not an address.",
            remedy="Write HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080; port 0 picks one.",
        )
    return bare, int(port)


def format_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(sock: socket.socket) -> str:
    """Return where a TCP socket is bound, as `host:port`."""
    host, port = sock.getsockname()[:2]
    return format_address(host, port)


def listen_tcp(address: str, *, option: str = "the address") -> socket.socket:
    """Listen on `host:port`. `option` names the setting in errors, for example `--http`."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _door_error(error, address, option) from error
    sock.setblocking(False)
    return sock


class PortInUse(SetupError):
    """Somebody else listens there; it may help to try again a little later."""


def _door_error(error: OSError, address: str, option: str) -> SetupError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{address} is in use by another program, so {option} cannot listen there.",
            remedy=f"Stop that program, or choose another port: {option} HOST:PORT (0 picks one).",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SetupError(
            f"this user may not listen on {address} ({option}).",
            remedy="Choose a port above 1023, start by systemd, or allow low ports to all: "
            "sudo sysctl net.ipv4.ip_unprivileged_port_start=80",
        )
    return SetupError(
        f"cannot listen on {address} ({option}): {error.strerror or error}.",
        remedy="Give an address of this machine as HOST:PORT, for example 127.0.0.1:8080.",
    )


def listen_unix(path: Path, backlog: int = BACKLOG, kind: int = 0) -> socket.socket:
    """Listen on a unix socket, 0600; a stale file at `path` is replaced."""
    sock = socket.socket(socket.AF_UNIX, (kind or socket.SOCK_STREAM) | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def listen_seqpacket(path: Path) -> socket.socket:
    """Listen for message connections."""
    return listen_unix(path, 8, socket.SOCK_SEQPACKET)


def connect_seqpacket(path: Path) -> socket.socket:
    """Connect for messages; non-blocking. Raises ConnectionError or FileNotFoundError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def send_message(sock: socket.socket, data: bytes, descriptors: Iterable[int] = ()) -> None:
    """Send one message, whole. Raises BlockingIOError when the other side is slow."""
    fds = array.array("i", descriptors)
    assert len(data) <= MESSAGE_BYTES_MAX, f"a message of {len(data)} bytes is too long"
    assert len(fds) <= DESCRIPTORS_MAX, f"{len(fds)} descriptors are too many for a message"
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive_message(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one message with its descriptors; `(b"", [])` when the connection has ended.

    Raises BlockingIOError when there is none yet, ConnectionError when it was cut short."""
    room = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise ConnectionError("a message was cut short (out of descriptors?)")
    return data, list(fds)


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors; one that is closed already does no harm."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
