"""R2's store as a process: `python -m kythera.store.r2_server --state DIR --listen-fd N`.

Cells ask it in workerd's R2 protocol and show their pass; the API asks with a pass of no worker, which
alone may delete a bucket. It keeps nothing itself: the engine does, and it may die at any moment. On
SIGTERM it stops listening, finishes what it can within `stop_ms`, and ends.
"""

import argparse
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog
from aiohttp import ClientConnectionError, ClientPayloadError, web

from kythera.ground.chance import SystemChance
from kythera.ground.clock import SystemClock
from kythera.ground.files import has_room
from kythera.ground.journal import configure
from kythera.ground.layout import Layout
from kythera.ground.passes import PASS_HEADER, NotAPass, Pass, check
from kythera.model.errors import KytheraError, Refusal
from kythera.store import r2_errors
from kythera.store.r2_bodies import PIECE_BYTES
from kythera.store.r2_conditions import holds, range_given, range_header
from kythera.store.r2_elsewhere import endpoint_of, read_key
from kythera.store.r2_engine import EngineFiles
from kythera.store.r2_health import EngineHealth
from kythera.store.r2_listing import cut
from kythera.store.r2_objects import view
from kythera.store.r2_protocol import (
    ERROR_HEADER,
    QUESTION_BYTES_MAX,
    REQUEST_HEADER,
    SIZE_HEADER,
    Question,
    error_header,
    read_question,
)
from kythera.store.r2_ready import wait_until_up
from kythera.store.r2_store import R2Store
from kythera.store.s3 import open_s3
from kythera.store.s3_door import S3Door
from kythera.store.s3_records import RecordedBuckets
from kythera.store.settled import Settled
from kythera.store.usage import PATH, Usage, is_agents

STORE = "r2"
HEAD_BYTES_MAX = 256 * 1024
"""Of a request: a question in a header holds a key and conditions."""
KEEP_ALIVE_S = 600.0
LISTED_BYTES_MAX = 700 * 1024
"""Of a list's page; workerd takes 1 MiB."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Answer = Callable[[Pass, Question, int, AsyncIterator[bytes]], Awaitable[Any]]

HEALTH = "/healthz"
"""Asked by the agent, without a pass: 503 when the engine has to be started anew."""
ENGINE_ROOM_BYTES_MIN = 64 * 1024 * 1024
"""With less the disk is as good as full."""


CLASS_B = ("head", "get")
FREE = ("delete", "abortMultipartUpload", "deleteBucket")


def class_of(method: str) -> str:
    """Return of which of R2's classes of operations a method is. Pure."""
    return "class_b" if method in CLASS_B else "free" if method in FREE else "class_a"


class R2Server:
    """Answers cells."""

    def __init__(self, store: R2Store, key: str, health: EngineHealth) -> None:
        self.usage = Usage("class_a", "class_b", "free", "bytes_in", "bytes_out")
        self._store = store
        self._key = key
        self._health = health
        self._journal = structlog.get_logger("r2")
        self._writes: Mapping[str, Answer] = {
            "put": self._put,
            "delete": self._delete,
            "createMultipartUpload": self._create,
            "uploadPart": self._part,
            "completeMultipartUpload": self._complete,
            "abortMultipartUpload": self._abort,
            "deleteBucket": self._delete_bucket,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        try:
            if request.path == HEALTH:
                ails = self._health.ails(anyio.current_time())
                return web.Response(status=503 if ails else 200)
            granted = check(request.headers.get(PASS_HEADER, ""), self._key, STORE)
            if request.path == PATH and is_agents(granted):
                return web.Response(body=self.usage.told(), content_type="application/json")
            if request.method == "PUT":
                return await self._write(request, granted)
            return await self._read(request, granted)
        except NotAPass:
            return _refused(r2_errors.unauthorized())
        except Refusal as refusal:
            return _refused(refusal)
        except (OSError, ClientConnectionError, ClientPayloadError) as error:
            self._journal.warning("r2_cut", error=str(error) or type(error).__name__)
            return _refused(r2_errors.internal())

    async def _read(self, request: web.BaseRequest, granted: Pass) -> web.StreamResponse:
        # Headers are bytes: the key in it is UTF-8, whatever HTTP says.
        raw = request.headers.get(REQUEST_HEADER, "").encode("utf-8", "surrogateescape")
        question = read_question(raw)
        bucket = granted.resource
        self.usage.add(granted, class_of(question.method))
        match question.method:
            case "head":
                found = await self._store.head(bucket, question.object)
                return _whole(msgspec.json.encode(view(found)))
            case "get":
                return await self._get(request, granted, question)
            case "list":
                return _whole(msgspec.json.encode(await self._list(bucket, question)))
        raise r2_errors.not_implemented(f"R2's method {question.method[:40]!r}")

    async def _get(
        self, request: web.BaseRequest, granted: Pass, question: Question
    ) -> web.StreamResponse:
        if question.ssec is not None:
            raise r2_errors.not_implemented("Encryption with a customer's key (ssecKey)")
        part = range_header(question.range, question.range_header)
        async with self._store.get(granted.resource, question.object, part) as opened:
            found = opened.found
            document = view(found)
            if not holds(question.only_if, found):
                return _refused(r2_errors.precondition_failed(), document)
            if given := range_given(opened.content_range):
                document["range"] = given
            elif question.range is not None:
                document["range"] = {"offset": "0", "length": str(found.size)}
            told = msgspec.json.encode(document)
            if opened.whole is not None:
                self.usage.add(granted, "bytes_out", opened.length)
                return _whole(told, opened.whole)
            answer = web.StreamResponse(headers={SIZE_HEADER: str(len(told))})
            answer.content_length = len(told) + opened.length
            answer.content_type = "application/octet-stream"
            await answer.prepare(request)
            await answer.write(told)
            try:
                async for piece in opened.pieces:
                    self.usage.add(granted, "bytes_out", len(piece))
                    await answer.write(piece)
                await answer.write_eof()
            except (OSError, ClientConnectionError, ClientPayloadError):
                _cut(request)  # the length was told: whoever reads it sees that it is not whole
            return answer

    async def _list(self, bucket: str, question: Question) -> dict[str, Any]:
        shown, objects = await self._store.listing(bucket, question)
        views = {found.key: view(found, question.include) for found in objects}
        sizes = {key: len(msgspec.json.encode(document)) for key, document in views.items()}
        shown = cut(shown, sizes, LISTED_BYTES_MAX)
        document: dict[str, Any] = {
            "objects": [views[key] for key in shown.keys if key in views],
            "truncated": bool(shown.cursor),
            "delimitedPrefixes": shown.prefixes,
        }
        if shown.cursor:
            document["cursor"] = shown.cursor
        return document

    async def _write(self, request: web.BaseRequest, granted: Pass) -> web.StreamResponse:
        told = request.headers.get(SIZE_HEADER, "")
        if not told.isdigit() or not 0 < int(told) <= QUESTION_BYTES_MAX:
            raise r2_errors.invalid_argument("Metadata missing or invalid.")
        if request.content_length is None:
            raise r2_errors.invalid_argument("The length of the body is not known.")
        question = read_question(await request.content.readexactly(int(told)))
        doing = self._writes.get(question.method)
        if doing is None:
            raise r2_errors.not_implemented(f"R2's method {question.method[:40]!r}")
        size = request.content_length - int(told)
        self.usage.add(granted, class_of(question.method))
        result = await doing(granted, question, size, self._taken(request, granted))
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")

    async def _taken(self, request: web.BaseRequest, granted: Pass) -> AsyncIterator[bytes]:
        """Yield a body, counted."""
        async for piece in request.content.iter_chunked(PIECE_BYTES):
            self.usage.add(granted, "bytes_in", len(piece))
            yield piece

    async def _put(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        return view(await self._store.put(granted.resource, question, size, pieces))

    async def _delete(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        keys = question.objects or ([question.object] if question.object else [])
        await self._store.delete(granted.resource, keys)
        return {}

    async def _create(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        return {"uploadId": await self._store.create_upload(granted.resource, question)}

    async def _part(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        return {"etag": await self._store.upload_part(granted.resource, question, size, pieces)}

    async def _complete(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        return view(await self._store.complete_upload(granted.resource, question))

    async def _abort(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        await self._store.abort_upload(granted.resource, question)
        return {}

    async def _delete_bucket(
        self, granted: Pass, question: Question, size: int, pieces: AsyncIterator[bytes]
    ) -> Any:
        if granted.worker:
            raise r2_errors.unauthorized()
        await self._store.delete_bucket(granted.resource)
        return {}


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _whole(told: bytes, body: bytes = b"") -> web.Response:
    return web.Response(body=told + body, headers={SIZE_HEADER: str(len(told))})


def _refused(refusal: Refusal, document: Mapping[str, Any] | None = None) -> web.Response:
    """Say no; a condition that does not hold still shows the object."""
    headers = {ERROR_HEADER: error_header(refusal)}
    body = b""
    if document is not None:
        body = msgspec.json.encode(document)
        headers[SIZE_HEADER] = str(len(body))
    return web.Response(status=refusal.status, headers=headers, body=body)


@asynccontextmanager
async def _serving(handler: Handler, sock: socket.socket, stop_ms: int) -> AsyncIterator[None]:
    """Answer at a socket for the length of the block."""
    server = web.Server(
        handler,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_S,
        max_line_size=HEAD_BYTES_MAX,
        max_field_size=HEAD_BYTES_MAX,
        read_bufsize=PIECE_BYTES,
        auto_decompress=False,
    )
    runner = web.ServerRunner(server, shutdown_timeout=stop_ms / 2000)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()


async def _acknowledged() -> None:
    """Another endpoint answers when it has what it was given: that is its promise, not ours."""


def _write_failed(health: EngineHealth, folder: Path) -> None:
    health.refused(anyio.current_time(), room=has_room(folder, ENGINE_ROOM_BYTES_MIN))


async def serve(layout: Layout, listener: socket.socket, outside: socket.socket | None) -> None:
    """Serve cells, and S3's clients at `outside`, until a signal says stop."""
    platform = layout.read_platform()
    limits, files = platform.limits, EngineFiles(layout)
    key = layout.store_key.read_text(encoding="ascii")
    async with AsyncExitStack() as stack:
        endpoint, settle = files.endpoint(), Settled(files.engine).wait
        if platform.r2_endpoint:
            endpoint = endpoint_of(platform.r2_endpoint, read_key(Path(platform.r2_key)))
            settle = _acknowledged
        health = EngineHealth()
        s3 = await stack.enter_async_context(open_s3(endpoint, limits.r2_silent_ms_max))
        if not platform.r2_endpoint:
            probe = await stack.enter_async_context(open_s3(endpoint, limits.r2_start_ms))
            s3.recovered = partial(wait_until_up, probe, limits.r2_start_ms)
            await s3.recovered()
            s3.write_failed = partial(_write_failed, health, files.engine)
        store = R2Store(
            s3,
            limits,
            SystemClock(),
            SystemChance(),
            buckets=files.buckets,
            settle=settle,
            hot_bytes_max=0 if platform.r2_endpoint else limits.r2_hot_bytes_max,
        )
        ours = R2Server(store, key, health)
        doors: list[tuple[Handler, socket.socket]] = [(ours.answer, listener)]
        if outside is not None:
            buckets = RecordedBuckets(layout, files.buckets)
            doors.append((S3Door(store, files.outside(), SystemClock(), buckets).answer, outside))
        for handler, sock in doors:
            await stack.enter_async_context(_serving(handler, sock, limits.stop_ms))
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the store until it is told to stop; return an exit code."""
    parser = argparse.ArgumentParser(prog="kythera.store.r2_server")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--s3-fd", type=int)
    options = parser.parse_args(arguments)
    configure("store/r2")
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    listener = socket.socket(fileno=options.listen_fd)
    outside = None if options.s3_fd is None else socket.socket(fileno=options.s3_fd)
    for sock in filter(None, (listener, outside)):
        sock.setblocking(False)
    try:
        anyio.run(serve, Layout(options.state), listener, outside)
    except (KytheraError, OSError, TimeoutError) as error:
        structlog.get_logger("r2").error("r2_cannot_start", reason=str(error) or "no engine")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
