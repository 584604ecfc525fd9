"""What a visitor reads when the front door itself must answer.

Pure. Each answer exists as HTML (browsers), JSON (who accepts JSON) and one plain line (curl). The
ray id stands in the middle of each, so a form is a head and a tail: rows of two maps that are
looked up as `<form>/<status>` only when an error happens.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

FORMS = {"text/html": "html", "application/json": "json", "+json": "json"}
"""What `Accept` contains, in order of precedence, and the form that answers it."""
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
}
REFUSED_MARK = "x-kythera-refused"
REFUSED_STATUS = 425
"""What a machine says, with REFUSED_MARK, that cannot serve a request another sent it: unlike 503 a
worker hardly says it, so the other may ask elsewhere without asking again what was answered."""
QUEUE_STATUS = 421
"""What HAProxy says inside of itself when a worker's queue is full; the visitor sees 503. A number of
its own, so that 503 can mean that a worker does not start."""
CANNOT_START = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n"
    f"{REFUSED_MARK}: 1\r\n\r\n"
).encode()
"""What to write to a connection that waits on a socket whose cell cannot start; the front door
shows the visitor its own page instead. Closing without a word would do for a client's first
request, but on a kept-alive connection HAProxy would hang up without a page."""
STYLE = (
    ":root{color-scheme:light dark;font:17px/1.5 system-ui,sans-serif}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center}"
    "main{max-width:34em;padding:2em}h1{font-size:1.5em;margin:0 0 .4em}"
    "p{margin:.5em 0}small{opacity:.65}code{font:.9em ui-monospace,monospace}"
)


@dataclass(frozen=True)
class Page:
    """One answer: the HTTP status, Cloudflare's code, what happened and what to do."""

    status: int
    code: int
    title: str
    visitor: str
    owner: str = ""
    key: str = ""
    """Name in the maps; the status when empty."""


PAGES = (
    Page(400, 400, "Bad request", "The request could not be understood."),
    Page(
        404,
        1001,
        "There is nothing here",
        "No worker answers at this address.",
        "deploy a worker with wrangler deploy, or give one of yours this hostname as a route "
        "or a custom domain.",
    ),
    Page(408, 408, "Request too slow", "The request did not arrive in time."),
    Page(
        413,
        413,
        "Request too large",
        "The request's body is larger than this site accepts.",
        "kythera up --limit request_body_bytes_max=… says how large it may be.",
        key="body_too_large",
    ),
    Page(
        414,
        414,
        "Address too long",
        "The address that was asked for is longer than this site accepts.",
        key="url_too_long",
    ),
    Page(
        431,
        431,
        "Request head too large",
        "The request's headers are larger, or more, than this site accepts. "
        "To delete this site's cookies may help.",
        key="head_too_large",
    ),
    Page(
        429,
        1015,
        "Too many connections",
        "Your network has more connections open to this site than it accepts. "
        "Close some, or try again in a few seconds.",
        key="connections_per_client",
    ),
    Page(
        503,
        1102,
        "Too busy",
        "There are more visitors than this site has room for. Try again in a few seconds.",
        "kythera status tells what was refused, and how often.",
        key="connections",
    ),
    Page(
        503,
        1102,
        "Worker is busy",
        "More requests wait for the worker that answers here than it may have. "
        "Try again in a few seconds.",
        "kythera.queue_requests says how many it may have on one machine.",
        key="queue",
    ),
    Page(500, 500, "Internal error", "The front door failed to handle the request."),
    Page(
        500,
        1101,
        "Worker threw exception",
        "The worker that answers here failed on this request.",
        "wrangler tail shows the message and the stack beside this ray id.",
        key="1101",
    ),
    Page(502, 1102, "Worker cannot answer", "The worker ended while it handled the request."),
    Page(
        503,
        1102,
        "Worker cannot start",
        "The worker that answers here cannot start now. Try again in a few seconds.",
        "kythera status tells why it does not start.",
    ),
    Page(504, 524, "Worker is too slow", "The worker did not answer in time."),
)


def page_rows() -> tuple[dict[str, str], dict[str, str]]:
    """Return the rows of the two maps: what stands before the ray id, and after it."""
    heads: dict[str, str] = {}
    tails: dict[str, str] = {}
    for page in PAGES:
        for form, whole in _forms(page):
            head, _, tail = whole.partition("RAY")
            key = f"{form}/{page.key or page.status}"
            heads[key], tails[key] = head, tail
    return heads, tails


def _forms(page: Page) -> Iterator[tuple[str, str]]:
    yield "html", _html(page)
    yield "json", _json(page)
    owner = f" Owner: {page.owner}" if page.owner else ""
    yield "text", f"error {page.code}: {page.title}. {page.visitor}{owner} ray=RAY"


def _html(page: Page) -> str:
    owner = f"<p>If this site is yours: {escape(page.owner)}</p>" if page.owner else ""
    title = escape(page.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>"
        f"<p>{escape(page.visitor)}</p>{owner}"
        f"<p><small>Error {page.code} · ray <code>RAY</code></small></p></main></body></html>"
    )


def _json(page: Page) -> str:
    body = {
        "success": False,
        "errors": [{"code": page.code, "message": f"{page.title}. {page.visitor}"}],
        "ray_id": "RAY",
    }
    return json.dumps(body, separators=(",", ":"))
