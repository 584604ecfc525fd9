"""Buckets that S3's clients make and delete: records, which this machine's API writes.

Whoever has the keys of the S3 door is the platform's operator; the API is asked in that name, by its own
address, with the token of the state folder, and its audit says `kythera-s3`. Promises: what is made or
deleted is so for the door too when the answer comes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import anyio
import msgspec

from kythera.ground.addresses import loopback
from kythera.ground.layout import Layout
from kythera.model.errors import Refusal
from kythera.store import r2_errors
from kythera.store.r2_buckets import told, wait_gone, wait_told

AGENT = "kythera-s3"


class Buckets(Protocol):
    """What the door needs to know of buckets, and may do to them."""

    def told(self) -> Mapping[str, str]:
        """Return which there are: name → moment it was made."""
        ...

    async def make(self, bucket: str, location: str) -> None:
        """Make one. Raises Refusal."""
        ...

    async def delete(self, bucket: str) -> None:
        """Delete one, when it is empty. Raises Refusal."""
        ...


class RecordedBuckets:
    """Those of the records."""

    def __init__(self, layout: Layout, buckets: Path) -> None:
        platform = layout.read_platform()
        api = f"http://{loopback(platform.api)}/client/v4"
        self._root = f"{api}/accounts/{platform.account_id}/r2/buckets"
        self._token = layout.token
        self._buckets = buckets
        self._within_s = platform.limits.r2_start_ms / 1000

    def told(self) -> Mapping[str, str]:
        """Return which there are: name → moment it was made."""
        return told(self._buckets)

    async def make(self, bucket: str, location: str) -> None:
        """Make one. Raises Refusal."""
        hint = {"locationHint": location} if location else {}
        await self._ask("POST", "", {"name": bucket, **hint})
        await wait_told(self._buckets, bucket)

    async def delete(self, bucket: str) -> None:
        """Delete one, when it is empty. Raises Refusal."""
        await self._ask("DELETE", f"/{quote(bucket, safe='')}", None)
        await wait_gone(self._buckets, bucket)

    async def _ask(self, method: str, path: str, body: dict[str, str] | None) -> None:
        token = (await anyio.Path(self._token).read_text()).strip()
        headers = {"Authorization": f"Bearer {token}", "User-Agent": AGENT}
        within = aiohttp.ClientTimeout(total=self._within_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=within, trust_env=False) as session,
                session.request(method, self._root + path, json=body, headers=headers) as answer,
            ):
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            raise r2_errors.internal() from None


def _refusal(status: int, data: bytes) -> Refusal:
    try:
        told_: dict[str, Any] = msgspec.json.decode(data)
        reason = told_["errors"][0]
        return Refusal(int(reason["code"]), str(reason["message"]), status=status)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return r2_errors.internal()
