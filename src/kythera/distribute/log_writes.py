"""Whether a server of the log still writes: asked, not assumed.

nats-server (2.15) that once could not write to its disk writes nothing to that stream any more until it is
started anew, though there may be room again; whoever writes gets no answer. It does say so of its health.
"""

from typing import Any

import msgspec

from kythera.distribute.address import LogAddress
from kythera.distribute.link import Links, connected
from kythera.distribute.nats_server import ask_servers

HEALTH = "HEALTHZ"
MARK = "write error"


async def write_error(address: LogAddress) -> str:
    """Ask a server why it writes nothing any more; empty: it does. Raises LinkLost, and what a connection
    that cannot be opened raises."""
    async with connected(address, address.watcher, Links()) as link:
        own = str(link.client._server_info["server_name"])
        answers = await ask_servers(link, {own}, about=HEALTH, body={"details": True})
        return write_error_in(answers.get(own, b"{}"))


def write_error_in(answer: bytes) -> str:
    """Return what a server's account of its health (HEALTHZ) says of writes that failed. Pure."""
    told: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any]).get("data") or {}
    errors = [each.get("error", "") for each in told.get("errors") or ()]
    return next((error for error in [*errors, told.get("error", "")] if MARK in error), "")
