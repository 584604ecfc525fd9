"""Under systemd, systemd is the keeper's keeper: it keeps the sockets when even we are gone.

`Notifier` tells it how we are (`READY=1`, `WATCHDOG=1`) and hands it descriptors (`FDSTORE=1`);
`inherited` takes them back at the next start, by name. Without NOTIFY_SOCKET all of it is a no-op.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping, Sequence

from kythera.ground.sockets import send_message

FIRST_DESCRIPTOR = 3
OUR_COLON, THEIR_COLON = ":", "|"
"""systemd separates names by colons, so a colon in ours travels as a bar (which ours never have)."""


class Notifier:
    """Speaks to systemd's notification socket, if there is one; never waits and never raises."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        """Say `alive` more often than this; None when nobody watches."""
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):
                self._socket.connect("\0" + address[1:] if address[0] == "@" else address)

    @property
    def present(self) -> bool:
        """Whether systemd (or somebody in its place) listens."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The service is up."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def keep(self, name: str, descriptor: int) -> None:
        """Ask systemd to keep a copy of a socket, under its name."""
        self._tell(f"FDSTORE=1\nFDNAME={_theirs(name)}", [descriptor])

    def drop(self, name: str) -> None:
        """Ask systemd to let go of the sockets of that name."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={_theirs(name)}")

    def _tell(self, text: str, descriptors: Sequence[int] = ()) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                send_message(self._socket, text.encode(), descriptors)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()


def notifier(environ: MutableMapping[str, str]) -> Notifier:
    """Make a notifier from NOTIFY_SOCKET and WATCHDOG_USEC, and take them out of `environ`."""
    address = environ.pop("NOTIFY_SOCKET", "")
    period_us = environ.pop("WATCHDOG_USEC", "")
    owner = environ.pop("WATCHDOG_PID", "")
    watched = period_us.isdigit() and owner in ("", str(os.getpid()))
    return Notifier(address, int(period_us) / 1e6 if watched else None)


def inherited(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Take the sockets that systemd passed, by name, and the variables out of `environ`.

    Of two with one name the first stays. What is not meant for this process is left alone."""
    count, owner = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if owner != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, socket.socket] = {}
    for offset in range(int(count)):
        name = names[offset] if offset < len(names) else ""
        name = name.replace(THEIR_COLON, OUR_COLON) or f"unnamed{offset}"
        sock = _as_socket(FIRST_DESCRIPTOR + offset)
        if sock is not None and name in found:
            sock.close()
        elif sock is not None:
            found[name] = sock
    return found


def _theirs(name: str) -> str:
    return name.replace(OUR_COLON, THEIR_COLON)


def _as_socket(descriptor: int) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)  # not a socket: nothing of ours
        return None
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
