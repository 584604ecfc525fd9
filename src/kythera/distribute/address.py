"""Where the log is reached: on this machine by one small private file that nats-server's starter
writes, on others through their mesh door; and the password that all machines of a fleet know.
"""

from pathlib import Path

import anyio
import msgspec
from msgspec import Struct

from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.ground.shared_secrets import read_shared
from kythera.model.errors import StoreUnavailable

POLL_MS = 20
USER = "kythera"
WATCHER = "watcher"


class LogAddress(Struct, frozen=True, kw_only=True):
    """`url` is nats://host:port; `user` may write records, `watcher` may ask how the server is.

    With `peer` the server is another machine's: it is reached by mutual TLS through that machine's
    mesh door, and its certificate must have that name. Without, it is on this machine's loopback."""

    url: str
    user: str
    password: str
    watcher: str = WATCHER
    peer: str = ""

    def __repr__(self) -> str:
        """Show everything but the password."""
        return f"LogAddress(url={self.url!r}, user={self.user!r}, peer={self.peer!r})"


def fleet_password(layout: Layout) -> str | None:
    """Return the log's password, which every machine of the fleet can tell without being told.

    HMAC-SHA256 with the fleet's first key for secrets, 40 hexadecimal digits. None while there is
    neither key nor password (a server on its own, in tests)."""
    shared = read_shared(layout)
    return None if shared is None else shared.log_password


def mesh_log_address(peer: str, address: str, password: str) -> LogAddress:
    """Return the log of another machine, whose mesh door is at `address` (`host:port`)."""
    return LogAddress(url=f"tls://{address}", user=USER, password=password, peer=peer)


def write_address(path: Path, address: LogAddress) -> None:
    """Write the address, readable by its owner alone."""
    write_private(path, msgspec.json.encode(address))


def address_at(path: Path) -> LogAddress | None:
    """Return the address written at `path`, or None where there is none (or not one of ours)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LogAddress)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


async def read_log_address(path: Path, within_ms: int = 10_000) -> LogAddress:
    """Return the address, waiting for whoever starts nats-server to write it."""
    with anyio.move_on_after(within_ms / 1000):
        while True:
            address = address_at(path)
            if address is not None:
                return address
            await anyio.sleep(POLL_MS / 1000)
    raise StoreUnavailable(
        f"No log address appeared at {path} within {within_ms} ms.",
        remedy="The agent writes it when it starts nats-server: look at the agent's events.",
    )
