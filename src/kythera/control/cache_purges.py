"""What shall be in no machine's cache any more: Cloudflare's purge, as one record of the account.

Promises: when the answer says so, this machine serves it from its cache no more (the cache looks before
it answers); the others do as soon as they have the record. A machine that was away for more than
`cache_purges_kept_max` of them empties its cache.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.envelope import success
from kythera.control.scopes import ROOT
from kythera.control.services import Services, services_of
from kythera.control.store import put
from kythera.deploy.documents import as_flag, as_list, as_text
from kythera.ground.clock import iso
from kythera.ground.layout import Layout
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Resource
from kythera.store.cache_purges import FILE, RECORD, Purge, purges_of, read

BAD_PURGE = 1012
BYTES_MAX = 256 * 1024
"""Of all purges that are kept: they are one record."""
POLL_MS = 10


async def post_purge(request: Request) -> Response:
    """POST zones/{zone}/purge_cache: every zone is the account's."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    asked = read_purge(document, limits)

    async def write() -> int:
        catalog = services.store.catalog()
        before = catalog.resource(services.account, *RECORD)
        after = with_purge(before, asked, services.account, iso(services.clock.now()), limits)
        await services.store.write([put(after)])
        return purges_of(after)[-1].number

    number = await services.store.settled("cache purges", write)
    if services.fleet.layout is not None:
        await _done_here(services, services.fleet.layout, number)
    return success({"id": request.path_params["zone"]})


def read_purge(document: Mapping[str, Any], limits: Limits) -> Purge:
    """Return what a document asks to purge, without its number. Pure. Raises Refusal."""
    unknown = sorted(set(document) - {"files", *_LISTS, "purge_everything"})
    if unknown:
        raise _refusal(f"A purge knows no {unknown[0][:80]!r}.")
    everything = as_flag(document.get("purge_everything", False), "purge_everything")
    urls = tuple(_url(item) for item in as_list(document.get("files", []), "files"))
    named = {
        field: tuple(clean(as_text(item, f"an entry of {name}")) for item in as_list(found, name))
        for name, (field, clean) in _LISTS.items()
        if (found := document.get(name)) is not None
    }
    items = [*urls, *(item for found in named.values() for item in found)]
    if not items and not everything:
        raise _refusal("There is nothing to purge.")
    if len(items) > limits.cache_purge_items_max or len(str(items)) > BYTES_MAX // 2:
        raise _refusal(f"One purge names {limits.cache_purge_items_max} things at most.")
    return Purge(number=0, urls=urls, everything=everything, **named)


def _lower(text: str) -> str:
    return text.strip().lower()


def _prefix(text: str) -> str:
    return text.strip().partition("://")[2] or text.strip()


_LISTS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "hosts": ("hosts", _lower),
    "tags": ("tags", _lower),
    "prefixes": ("prefixes", _prefix),
}


def _url(item: Any) -> str:
    """Return one URL as the cache knows it; Cloudflare's form with headers names all variants."""
    text = as_text(item["url"] if isinstance(item, dict) and "url" in item else item, "a file")
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if host is None or parts.scheme not in ("http", "https"):
        raise _refusal(f"{text[:80]!r} is no URL: it begins with http:// or https://.")
    usual = {"http": 80, "https": 443}[parts.scheme]
    place = str(host) if port in (None, usual) else f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{place}{parts.path or '/'}{query}"


def _refusal(message: str) -> Refusal:
    remedy = 'Send {"files": ["https://…"]}, hosts, prefixes, tags, or {"purge_everything": true}.'
    return Refusal(BAD_PURGE, message, remedy=remedy)


def with_purge(
    before: Resource | None, asked: Purge, account: str, now: str, limits: Limits
) -> Resource:
    """Return the record with one more purge, the newest of all alone if it would be too much. Pure."""
    known = purges_of(before)
    number = known[-1].number + 1 if known else 1
    kept = [*known, msgspec.structs.replace(asked, number=number)][-limits.cache_purges_kept_max :]
    while len(kept) > 1 and len(msgspec.json.encode(kept)) > BYTES_MAX:
        del kept[0]
    kind, name = RECORD
    return Resource(
        account=account,
        type=kind,
        id=name,
        name="purges of the cache",
        created_on=now if before is None else before.created_on,
        fields={"purges": msgspec.to_builtins(kept)},
    )


async def _done_here(services: Services, layout: Layout, number: int) -> None:
    """Wait, but not for ever, until this machine's agent has told its cache."""
    limits = services.platform.limits
    path = layout.cache / FILE
    with anyio.move_on_after(limits.read_your_writes_ms / 1000):
        while _told(path.read_bytes() if path.exists() else b"{}", services.account) < number:
            await anyio.sleep(POLL_MS / 1000)
        return
    raise StoreUnavailable(
        "The purge was written, but this machine's agent did not tell its cache within"
        f" {limits.read_your_writes_ms} ms; it will as soon as it can."
    )


def _told(text: bytes, account: str) -> int:
    found = read(text).get(account, ())
    return found[-1].number if found else 0


def routes() -> list[Route]:
    """Return the API's endpoint."""
    return [Route(f"{ROOT}/zones/{{zone}}/purge_cache", post_purge, methods=["POST"])]
