"""The API's door to R2's store, this machine's or that of a bucket's home.

It is asked as a cell asks, with a pass of no worker.

Promises: bodies pass in pieces; what the store refuses is raised with its own code and text; a store
that does not answer is an outage that is said, not waited for.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Protocol

import httpx
import msgspec

from kythera.ground.layout import Layout
from kythera.ground.passes import PASS_HEADER, Pass, sign, store_key, way_mark
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.run.bindings import FLEET
from kythera.run.objects import WAY_HEADER
from kythera.store.r2_protocol import ERROR_HEADER, REQUEST_HEADER, SIZE_HEADER

STORE = "r2"
METADATA_BYTES_MAX = 1024 * 1024
Fields = Mapping[str, Any]


class BucketDoor(Protocol):
    """What endpoints need of R2's store."""

    async def write(
        self, bucket: str, question: Fields, size: int = 0, body: AsyncIterable[bytes] | None = None
    ) -> dict[str, Any]:
        """Ask for a change; `body` has `size` bytes. Raises Refusal, StoreUnavailable."""
        ...

    async def find(self, bucket: str, key: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """Return what is said of an object, and its bytes, to be read to their end or closed."""
        ...

    async def page(self, bucket: str, question: Fields) -> dict[str, Any]:
        """Return a page of a bucket. Raises Refusal, StoreUnavailable."""
        ...


class NoBuckets:
    """A door behind which there is no store."""

    async def write(
        self, bucket: str, question: Fields, size: int = 0, body: AsyncIterable[bytes] | None = None
    ) -> dict[str, Any]:
        """Refuse."""
        raise StoreUnavailable("There is no R2 store here.")

    async def find(self, bucket: str, key: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """Refuse."""
        raise StoreUnavailable("There is no R2 store here.")

    async def page(self, bucket: str, question: Fields) -> dict[str, Any]:
        """Refuse."""
        raise StoreUnavailable("There is no R2 store here.")


class StoreDoor:
    """The door to the stores behind a machine's sockets."""

    def __init__(
        self, layout: Layout, account: str, silent_ms_max: int, home_of: Callable[[str], str]
    ) -> None:
        self._layout = layout
        self._account = account
        self._home_of = home_of
        """Which other machine keeps a bucket; empty: this one."""
        self._silent_s = silent_ms_max / 1000

    async def write(
        self, bucket: str, question: Fields, size: int = 0, body: AsyncIterable[bytes] | None = None
    ) -> dict[str, Any]:
        """Ask for a change; `body` has `size` bytes. Raises Refusal, StoreUnavailable."""
        asked = msgspec.json.encode({"version": 1, **question})

        async def whole() -> AsyncIterator[bytes]:
            yield asked
            if body is not None:
                async for piece in body:
                    yield piece

        headers = {SIZE_HEADER: str(len(asked)), "Content-Length": str(len(asked) + size)}
        async with self._asked("PUT", bucket, headers, whole()) as answer:
            found: dict[str, Any] = msgspec.json.decode(await answer.aread())
            return found

    async def find(self, bucket: str, key: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """Return what is said of an object, and its bytes, to be read to their end or closed."""
        question = msgspec.json.encode({"version": 1, "method": "get", "object": key})
        pieces = self._read(bucket, {REQUEST_HEADER: question.decode()})
        told = await anext(pieces)
        return msgspec.json.decode(told), pieces

    async def page(self, bucket: str, question: Fields) -> dict[str, Any]:
        """Return a page of a bucket. Raises Refusal, StoreUnavailable."""
        asked = msgspec.json.encode({"version": 1, "method": "list", **question})
        async with self._asked("GET", bucket, {REQUEST_HEADER: asked.decode()}) as answer:
            found: dict[str, Any] = msgspec.json.decode(await answer.aread())
            return found

    async def _read(self, bucket: str, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """Yield the metadata, then the object's bytes."""
        async with self._asked("GET", bucket, headers) as answer:
            size, told, begun = int(answer.headers.get(SIZE_HEADER, "0")), b"", False
            async for piece in answer.aiter_raw():
                if begun:
                    yield piece
                    continue
                told += piece
                if len(told) >= size:
                    begun = True
                    yield told[:size]
                    yield told[size:]

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        bucket: str,
        headers: dict[str, str],
        content: AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        granted = Pass(account=self._account, worker="", store=STORE, resource=bucket)
        key, machine = store_key(self._layout.store_key), self._home_of(bucket)
        told = {**headers, PASS_HEADER: sign(granted, key)}
        if machine:
            told[WAY_HEADER] = way_mark(key, machine, STORE)
        socket = self._layout.store_socket(FLEET if machine else STORE)
        sent = [(name.encode(), value.encode()) for name, value in told.items()]
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=self._silent_s) as client:
                asking = client.stream(method, "http://r2/", headers=sent, content=content)
                async with asking as answer:
                    if answer.status_code >= 400:
                        _refuse(answer)
                    yield answer
        except httpx.TransportError as error:
            raise StoreUnavailable(f"R2's store does not answer ({error!r}).") from error


def _refuse(answer: httpx.Response) -> NoReturn:
    try:
        told = msgspec.json.decode(answer.headers.get(ERROR_HEADER, ""))
    except msgspec.MsgspecError:
        raise StoreUnavailable(f"R2's store answered {answer.status_code}.") from None
    raise Refusal(told["v4code"], told["message"], status=answer.status_code)
