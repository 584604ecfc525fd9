"""The API's way to this machine's KV store: its unix socket, in workerd's own protocol, with a pass in
nobody's name.

Promises: what the store refuses is refused here with Cloudflare's code for it; a store that is away
or slow is StoreUnavailable.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from kythera.ground.passes import PASS_HEADER, Pass, sign
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable
from kythera.model.limits import Limits

STORE = "kv"
ABSENT = 10009
TOO_LARGE = 10024
BAD_LIMIT = 10028
BAD_REQUEST = 10029
KEY_TOO_LONG = 10030
BAD_EXPIRATION, BAD_TTL = 10033, 10034
BAD_CURSOR = 10041
BAD_KEY = 10042
BAD_METADATA = 10047
CODES: tuple[tuple[str, int], ...] = (
    (r"Invalid expiration_ttl", BAD_TTL),
    (r"Invalid expiration", BAD_EXPIRATION),
    (r"Metadata", BAD_METADATA),
    (r"Value length|Total size", TOO_LARGE),
    (r"Invalid cursor", BAD_CURSOR),
    (r"Invalid key_count_limit", BAD_LIMIT),
    (r"UTF-8 encoded length", KEY_TOO_LONG),
    (r"Key names|Illegal key|Invalid key", BAD_KEY),
)
"""What the store's words begin with, and Cloudflare's code for it."""
CONNECTIONS_MAX = 64
METADATA_HEADER, EXPIRES_HEADER = "cf-kv-metadata", "kythera-kv-expiration"


class Value(NamedTuple):
    """What a key holds; the body comes piece by piece."""

    size: int
    metadata: bytes
    expiration: str
    pieces: AsyncIterator[bytes]


class KeyPage(NamedTuple):
    """A part of a list, and where the next begins (empty: nowhere)."""

    keys: list[dict[str, Any]]
    cursor: str


class KvStore:
    """The store of this machine, for one process."""

    def __init__(
        self,
        account: str,
        key: Callable[[], str],
        transport: httpx.AsyncBaseTransport,
        limits: Limits,
    ) -> None:
        """`key` returns what this machine's passes are signed with."""
        self._account = account
        self._key = key
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://kv", timeout=2 * limits.kv_write_ms / 1000
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def page(self, namespace: str, prefix: str, cursor: str, limit: int) -> KeyPage:
        """Return a part of a namespace's keys."""
        asked = {"key_count_limit": str(limit), "prefix": prefix, "cursor": cursor}
        response = await self._ask("GET", namespace, "/", params=asked)
        told = msgspec.json.decode(response.content)
        for key in told["keys"]:
            if "metadata" in key:
                key["metadata"] = msgspec.json.decode(key["metadata"])
        return KeyPage(told["keys"], told.get("cursor", ""))

    @asynccontextmanager
    async def value(self, namespace: str, key: str) -> AsyncIterator[Value]:
        """Hold a key's value open. Raises Refusal (10009) when there is none."""
        headers = self._headers(namespace)
        try:
            async with self._client.stream("GET", _path(key), headers=headers) as response:
                _refuse(response)
                raw = dict(response.headers.raw)
                yield Value(
                    int(response.headers["content-length"]),
                    next((v for n, v in raw.items() if n.lower() == b"cf-kv-metadata"), b""),
                    response.headers.get(EXPIRES_HEADER, ""),
                    response.aiter_raw(),
                )
        except httpx.HTTPError as error:
            raise _away(error) from error

    async def values(self, namespace: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return several keys' values."""
        body = msgspec.json.encode(asked)
        response = await self._ask("POST", namespace, "/bulk/get", content=body)
        found: dict[str, Any] = msgspec.json.decode(response.content)
        return found

    async def put(
        self,
        namespace: str,
        key: str,
        value: bytes,
        *,
        metadata: bytes = b"",
        expires: Mapping[str, str],
    ) -> None:
        """Write a key. `expires` has `expiration` or `expiration_ttl`, or neither."""
        headers = {METADATA_HEADER.encode(): metadata} if metadata else {}
        parameters = {"urlencoded": "true", **expires}
        await self._ask(
            "PUT", namespace, _path(key), params=parameters, content=value, more=headers
        )

    async def delete(self, namespace: str, key: str) -> None:
        """Delete a key; one that is not there is deleted already."""
        await self._ask("DELETE", namespace, _path(key))

    async def end(self, namespace: str) -> None:
        """Delete all keys of a namespace; it takes no others."""
        try:
            await self._ask("DELETE", namespace, "/")
        except Refusal as refusal:
            if refusal.code != BAD_REQUEST:
                raise

    async def _ask(
        self,
        method: str,
        namespace: str,
        path: str,
        more: Mapping[bytes, bytes] | None = None,
        **rest: Any,
    ) -> httpx.Response:
        headers = self._headers(namespace) | dict(more or {})
        try:
            response = await self._client.request(method, path, headers=headers, **rest)
        except httpx.HTTPError as error:
            raise _away(error) from error
        _refuse(response)
        return response

    def _headers(self, namespace: str) -> dict[bytes, bytes]:
        granted = Pass(account=self._account, worker="", store=STORE, resource=namespace)
        return {PASS_HEADER.encode(): sign(granted, self._key()).encode()}


def kv_store(account: str, key: Callable[[], str], socket: Path, limits: Limits) -> KvStore:
    """Return the store behind a unix socket."""
    connections = httpx.Limits(max_connections=CONNECTIONS_MAX)
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=connections)
    return KvStore(account, key, transport, limits)


def _path(key: str) -> str:
    return "/" + quote(key.encode(errors="replace"), safe="").replace(".", "%2E")


def _refuse(response: httpx.Response) -> None:
    """Raise what the store's answer says."""
    if response.status_code < 300:
        return
    told = response.extensions.get("reason_phrase", b"").decode(errors="replace")
    if response.status_code == 404:
        raise Refusal(ABSENT, "get: 'key not found'", status=404)
    if response.status_code >= 500:
        raise StoreUnavailable(told)
    code = next((code for words, code in CODES if re.match(words, told)), BAD_REQUEST)
    raise Refusal(code, told, status=response.status_code)


def _away(error: httpx.HTTPError) -> KytheraError:
    why = str(error) or type(error).__name__
    return StoreUnavailable(f"This machine's KV store does not answer: {why}.")
