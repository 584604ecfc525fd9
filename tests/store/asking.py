"""A store in a test's own process, asked over ASGI as a cell asks it: with a pass."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from kythera.ground.passes import PASS_HEADER, Pass, sign
from kythera.store.exchange import Store, app_of

KEY = "the machine's key"


def pass_to(store: str, resource: str, account: str = "a", worker: str = "w") -> dict[str, str]:
    """Return the header that workerd adds."""
    granted = Pass(account=account, worker=worker, store=store, resource=resource)
    return {PASS_HEADER: sign(granted, KEY)}


@asynccontextmanager
async def asking(
    store: Store, name: str, base: str = "http://store"
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a store; it brings no pass of its own."""
    transport = httpx.ASGITransport(app=app_of(store, name, KEY))
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        yield client


def as_put(body: bytes, headers: Mapping[str, str], status: str = "200 OK") -> bytes:
    """Return a response as workerd sends it to a cache."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
