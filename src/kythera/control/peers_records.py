"""The records, for other machines to follow from this one's copy.

`GET /records?after=SEQ`: frames (`distribute.batch`), without end. With `snapshot=1` it ends where
the copy stood. 410: ends of records after SEQ are forgotten, take a snapshot. 503: this copy is not
whole itself, or not there.
"""

from collections.abc import AsyncIterator

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from kythera.control.services import services_of
from kythera.distribute.log import LogPruned
from kythera.distribute.relay import PATH, PRUNED_STATUS, Relay
from kythera.model.errors import StoreUnavailable

MEDIA_TYPE = "application/vnd.kythera.records"
SEQ_DIGITS_MAX = 19

_events = structlog.get_logger()


async def records(request: Request) -> Response:
    """GET /records?after=SEQ[&snapshot=1]: what comes after a sequence, as it comes."""
    return answer(services_of(request).relay, request)


def answer(relay: Relay | None, request: Request) -> Response:
    """Answer from a relay, if there is one."""
    after = request.query_params.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) < SEQ_DIGITS_MAX):
        return PlainTextResponse(f"{after[:80]!r} is no sequence number.\n", status_code=400)
    if relay is None:
        return PlainTextResponse("This machine does not serve records.\n", status_code=503)
    try:
        relay.refuse(int(after))
    except LogPruned as error:
        return PlainTextResponse(f"{error}\n", status_code=PRUNED_STATUS)
    except StoreUnavailable as error:
        return PlainTextResponse(f"{error}\n", status_code=503)
    snapshot = request.query_params.get("snapshot") == "1"
    frames = _until_broken(relay, int(after), snapshot=snapshot)
    return StreamingResponse(frames, media_type=MEDIA_TYPE)


async def _until_broken(relay: Relay, after_seq: int, *, snapshot: bool) -> AsyncIterator[bytes]:
    """Yield frames; a copy that cannot be read any more ends the stream and nothing else."""
    try:
        async for frame in relay.serve(after_seq, snapshot=snapshot):
            yield frame
    except StoreUnavailable as error:
        _events.error("records_stream_ended", why=str(error))


def routes() -> list[Route]:
    """Return what other machines may ask."""
    return [Route(PATH, records, methods=["GET"])]
