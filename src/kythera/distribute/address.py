"""Where the log is reached: one small private file that nats-server's starter writes."""

from pathlib import Path

import anyio
import msgspec
from msgspec import Struct

from kythera.ground.files import write_private
from kythera.model.errors import StoreUnavailable

POLL_MS = 20


class LogAddress(Struct, frozen=True, kw_only=True):
    """`url` is nats://host:port; `user` may write records, `watcher` may ask how the server is."""

    url: str
    user: str
    password: str
    watcher: str = "watcher"

    def __repr__(self) -> str:
        """Show everything but the password."""
        return f"LogAddress(url={self.url!r}, user={self.user!r})"


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
