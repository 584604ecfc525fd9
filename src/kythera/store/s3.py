"""S3, as a client: signed requests to one endpoint, bodies streamed both ways.

aiohttp carries (its parser is C, it speaks over unix sockets, and it holds back a sender whose receiver
is slow); botocore signs. Promises: every wait has a deadline; an answer of 400 or more is an
`S3Failure` with the endpoint's own code.
"""

import re
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from kythera.model.errors import KytheraError
from kythera.store.s3_endpoint import Endpoint

HEADER_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Of what is read whole: a page of a list is the longest."""
CONNECTIONS_MAX = 256
FAILURE_BYTES_MAX = 64 * 1024
_UNSIGNED_NAMES = ("Content-Type", "Accept-Encoding", "User-Agent", "Accept")
Body = bytes | AsyncIterable[bytes] | None


class S3Failure(KytheraError):
    """The endpoint said no, or nothing at all (status 0)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"The object store answered {status} {code}: {message}"[:500])
        self.status = status
        self.code = code


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """Signs heads, not bodies: they are streamed, and go no further than this machine or TLS."""

    def _should_sha256_sign_payload(self, request: AWSRequest) -> bool:
        return False


WRITES = ("PUT", "POST", "DELETE")


class S3:
    """One endpoint; make it by `open_s3`."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._session = session
        credentials = Credentials(endpoint.access_key, endpoint.secret_key)
        self._signer = _Signer(credentials, "s3", endpoint.region)
        self.recovered: Callable[[], Awaitable[None]] | None = None
        """Waits, but not for ever, until an endpoint that is away is there again."""
        self.write_failed: Callable[[], None] | None = None
        """Told of each write that the endpoint, not the caller, is to blame for."""

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Hold an answer for the length of the block; `path` is `bucket` or `bucket/name`.

        Raises S3Failure."""
        url = f"{self._endpoint.url}/{quote(self._endpoint.prefix + path, safe='/~')}"
        if query:
            pairs = (f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
            url += "?" + "&".join(pairs)
        given = dict(headers or {})
        length = (
            {"Content-Length": given.pop("Content-Length")} if "Content-Length" in given else {}
        )
        signed = AWSRequest(method, url, headers=given)
        self._signer.add_auth(signed)
        sent = {**dict(signed.headers), **length}
        for again in (self.recovered is not None, False):
            answered = False
            try:
                async with self._session.request(
                    method, URL(url, encoded=True), headers=sent, data=body
                ) as answer:
                    if answer.status >= 500 and method in WRITES and self.write_failed:
                        self.write_failed()
                    if answer.status >= 400:
                        raise _failure(answer.status, await answer.content.read(FAILURE_BYTES_MAX))
                    answered = True
                    yield answer
                    return
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                if answered:
                    raise
                if not again or not _may_again(method, error):
                    raise S3Failure(0, "Unreachable", str(error) or type(error).__name__) from error
            assert self.recovered is not None, "else it would not be tried again"
            await self.recovered()

    async def whole(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """Return an answer's headers and its whole, short body."""
        async with self.ask(method, path, query, headers, body) as answer:
            data = await answer.content.read(ANSWER_BYTES_MAX) if method != "HEAD" else b""
            while method != "HEAD" and not answer.content.at_eof():
                data += await answer.content.read(ANSWER_BYTES_MAX)
            return answer.headers, data


def _may_again(method: str, error: Exception) -> bool:
    """Tell whether a request that failed may be sent again: nothing of it was taken, or it asks."""
    return isinstance(error, aiohttp.ClientConnectorError) or method in ("GET", "HEAD")


def _failure(status: int, data: bytes) -> S3Failure:
    text = data.decode(errors="replace")
    return S3Failure(status, texts(text, "Code", "")[0], texts(text, "Message", "")[0])


def texts(document: str, element: str, *otherwise: str) -> list[str]:
    """Return the texts of an element without children, in order; `otherwise` when there is none."""
    found = re.findall(rf"<{element}>([^<]*)</{element}>", document)
    return [_REFERENCE.sub(_letter, text) for text in found] or list(otherwise)


_REFERENCE = re.compile(r"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def _letter(reference: re.Match[str]) -> str:
    decimal, hexadecimal, name = reference.groups()
    if name:
        return _NAMED[name]
    number = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(number) if number <= sys.maxunicode else reference[0]


@asynccontextmanager
async def open_s3(endpoint: Endpoint, silent_ms_max: int) -> AsyncIterator[S3]:
    """Hold a client of an endpoint; one that says nothing for `silent_ms_max` is given up."""
    connector: aiohttp.BaseConnector
    if endpoint.socket:
        connector = aiohttp.UnixConnector(str(Path(endpoint.socket)), limit=CONNECTIONS_MAX)
    else:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
    silent_s = silent_ms_max / 1000
    async with aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        skip_auto_headers=_UNSIGNED_NAMES,
        timeout=aiohttp.ClientTimeout(total=None, connect=silent_s, sock_read=silent_s),
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        read_bufsize=256 * 1024,
        trust_env=False,
    ) as session:
        yield S3(endpoint, session)
