"""This machine's own status, as its agent tells it, for other machines.

Promises: an agent that hangs costs AGENT_MS, and the answer then says so.
"""

from pathlib import Path

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.answers import decoded
from kythera.control.envelope import answer, failed
from kythera.control.services import Services, services_of
from kythera.control.status_document import StatusAnswer
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import MIB

AGENT_MS = 1_000
STATUS_BYTES_MAX = 8 * MIB
"""Of one machine: some twenty thousand cells."""


async def own_status(services: Services) -> StatusAnswer:
    """Return what this machine's agent tells, and what this process adds. Raises StoreUnavailable."""
    path = services.fleet.status_socket
    if path is None:
        raise StoreUnavailable("This machine's agent has no socket.")
    body = b""
    with anyio.move_on_after(AGENT_MS / 1000) as deadline:
        body = await _read(path)
    if deadline.cancelled_caught:
        raise StoreUnavailable(f"This machine's agent did not answer within {AGENT_MS} ms.")
    told = decoded(body, StatusAnswer, services.me)
    trail = services.store.trail
    machines = [
        msgspec.structs.replace(
            machine,
            tail_events_lost=dict(services.fleet.relay.lost),
            calls_refused=dict(services.wrong_tokens.counts),
            audit_records=dict(trail.counts) if trail is not None else {},
        )
        for machine in told.machines[:1]
    ]
    return msgspec.structs.replace(told, machines=machines)


async def _read(path: Path) -> bytes:
    whole = bytearray()
    try:
        async with await anyio.connect_unix(path) as stream:
            async for chunk in stream:
                whole += chunk
                if len(whole) > STATUS_BYTES_MAX:
                    raise StoreUnavailable("This machine's agent tells too much.")
    except (OSError, anyio.BrokenResourceError) as error:
        why = type(error).__name__
        raise StoreUnavailable(f"This machine's agent does not answer ({why}).") from None
    return bytes(whole)


async def status(request: Request) -> Response:
    """GET /status: this machine's document."""
    try:
        return answer(msgspec.to_builtins(await own_status(services_of(request))), 200)
    except StoreUnavailable as error:
        return failed(error)


def routes() -> list[Route]:
    """Return what other machines may ask about this one."""
    return [Route("/status", status, methods=["GET"])]
