"""What endpoints for other machines have in common: who may ask, how a body is read and an answer
told, and how a question goes on to a core machine when this one cannot answer it: with who asked
for it, so that the audit there names them and not this machine.

Promises: a failure leaves as `Told` (message, remedy, status); what only core machines can do is
asked of each of them in turn, once, and never passed on a second time.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.control.bodies import read_body
from kythera.control.caller import Caller, calling
from kythera.control.envelope import UNAVAILABLE
from kythera.control.services import Services, services_of
from kythera.distribute.admission import CODE, core_peers
from kythera.distribute.invitation import Told
from kythera.distribute.join import read_answer
from kythera.distribute.mesh import PeerUnreachable
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
QUESTION_BYTES_MAX = 64 * 1024
PEER_HEADER = "x-kythera-peer"
"""The name in the certificate of who asks: HAProxy sets it."""
PASSED_ON = "x-kythera-passed-on"
CALLER_HEADER = "x-kythera-caller"
"""Who asked the machine that passes a question on. Only machines of the fleet are believed."""
CALLER_CHARACTERS_MAX = 4_096


def peer_of(request: Request) -> str:
    """Return the name in the certificate of who asks."""
    return request.headers.get(PEER_HEADER, "")


def told(endpoint: Endpoint) -> Endpoint:
    """Turn an endpoint's expected failures into answers."""

    @functools.wraps(endpoint)
    async def answering(request: Request) -> Response:
        try:
            return await endpoint(request)
        except KytheraError as error:
            return refusal(error)

    return answering


def refusal(error: KytheraError) -> Response:
    """Return a failure as another machine reads it."""
    status, code = 400, 0
    if isinstance(error, Refusal):
        status, code = error.status, error.code
    elif isinstance(error, StoreUnavailable):
        status, code = 503, UNAVAILABLE
    said = Told(message=error.message, remedy=error.remedy, status=status, code=code)
    return reply(said, status)


def reply(message: Any, status: int = 200) -> Response:
    """Return a message as JSON."""
    return Response(msgspec.json.encode(message), status, media_type="application/json")


async def question(request: Request, kind: type[T]) -> T:
    """Read what is asked. Raises Refusal for anything else."""
    body = await read_body(request, QUESTION_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Refusal(CODE, f"The question cannot be read: {error}.") from None


def member_of(request: Request) -> str:
    """Return the name of the machine that asks. Raises Refusal unless the fleet knows it."""
    name = peer_of(request)
    if services_of(request).store.catalog().machine(name) is None:
        raise Refusal(CODE, f"{name[:80]!r} is no machine of this fleet.", status=403)
    return name


def layout_of(services: Services) -> Layout:
    """Return where this machine's identity lies."""
    assert services.fleet.layout is not None, "the control process has a state folder"
    return services.fleet.layout


async def up_to_date(services: Services) -> None:
    """Wait until this machine's copy shows all that the log holds now."""
    await services.store.caught_up(await services.store.newest())


async def passed_on(services: Services, request: Request | None, path: str, body: bytes) -> bytes:
    """Ask the core machines in turn; return the first answer. Raises what the last one said.

    `request` is what came from another machine, if it did: it is passed on once at most."""
    if request is not None and request.headers.get(PASSED_ON):
        raise StoreUnavailable(
            f"{services.platform.machine!r} does not hold the fleet's authority."
        )
    headers = {PASSED_ON: "1", **_caller_header()}
    error: KytheraError = StoreUnavailable("No core machine is known here yet.")
    for peer in core_peers(services.store.catalog()):
        if peer.name == services.platform.machine:
            continue
        try:
            response = await services.fleet.mesh.request(
                peer.name, peer.mesh, "POST", path, content=body, headers=headers
            )
            if response.is_success:
                return response.content
            read_answer(response, Told)
        except PeerUnreachable as unreachable:
            error = unreachable
    raise error


def _caller_header() -> dict[str, str]:
    caller = calling.get()
    if caller is None:
        return {}
    return {CALLER_HEADER: quote(msgspec.json.encode(caller).decode(), safe="")}


def handed_caller(text: str) -> Caller | None:
    """Return who asked another machine, as that one tells; None when it does not."""
    try:
        told = unquote(text[:CALLER_CHARACTERS_MAX], errors="strict")
        return msgspec.json.decode(told, type=Caller) if text else None
    except (msgspec.MsgspecError, ValueError):
        return None
