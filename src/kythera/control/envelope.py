"""Cloudflare's envelope around every answer, and what each kind of failure looks like in it.

Promises: an answer is JSON whatever happened, and a refusal says what to do next.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kythera.deploy.refusals import Refusals
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable

NO_ROUTE = 7003
WRONG_METHOD = 10405
UNAVAILABLE = 10013
INTERNAL = 10001
RETRY_AFTER_S = 2
PAGE_DIGITS_MAX = 9
PER_PAGE_MAX = 1000
STALE = 10014

notes: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("notes", default=())
"""What to tell beside the result of the call that is being answered: codes and sentences."""


def answer(document: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return any JSON document as a response."""
    return Response(
        msgspec.json.encode(document),
        status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def success(result: Any, *, status: int = 200, info: Mapping[str, Any] | None = None) -> Response:
    """Return a result."""
    messages = [{"code": code, "message": message} for code, message in notes.get()]
    document = {"success": True, "errors": [], "messages": messages, "result": result}
    if info is not None:
        document["result_info"] = info
    return answer(document, status)


def failure(
    reasons: Sequence[tuple[int, str]], status: int, headers: Mapping[str, str] | None = None
) -> Response:
    """Return one or more reasons why there is no result."""
    errors = [{"code": code, "message": message} for code, message in reasons]
    document = {"success": False, "errors": errors, "messages": [], "result": None}
    return answer(document, status, headers)


def failed(error: KytheraError) -> Response:
    """Return an expected failure as a response."""
    match error:
        case Refusals():
            return failure(error.reasons, error.status)
        case Refusal():
            return failure([(error.code, str(error))], error.status)
        case StoreUnavailable():
            text = f"The platform cannot store or read this now: {error} Try again in a moment."
            return failure([(UNAVAILABLE, text)], 503, {"retry-after": str(RETRY_AFTER_S)})
        case _:
            return failure([(10021, str(error))], 400)


def no_route(path: str) -> Response:
    """Say that there is no such endpoint."""
    text = f"Could not route to {path[:200]}, perhaps your object identifier is invalid?"
    return failure([(NO_ROUTE, f"{text} This platform may not offer it yet.")], 404)


def wrong_method(method: str, path: str) -> Response:
    """Say that the endpoint exists, but not for this method."""
    return failure([(WRONG_METHOD, f"{method[:20]} is not allowed for {path[:200]}.")], 405)


def listed(request: Request, items: Sequence[Any], wrap: str = "") -> Response:
    """Return one page of a list; past its end pages are empty, as some clients ask until then.

    `wrap` names the key under which Cloudflare hides the list, if it does."""
    per_page = _number(request, "per_page", max(len(items), 1))
    page = _number(request, "page", 1)
    per_page = min(per_page, max(PER_PAGE_MAX, len(items)))
    start = (page - 1) * per_page
    part = list(items[start : start + per_page])
    info = {
        "page": page,
        "per_page": per_page,
        "count": len(part),
        "total_count": len(items),
        "total_pages": -(-len(items) // per_page),
    }
    return success({wrap: part} if wrap else part, info=info)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > PAGE_DIGITS_MAX:
        return default
    return max(int(text), 1)
