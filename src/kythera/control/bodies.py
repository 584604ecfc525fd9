"""Request bodies: read within limits of size and time, as bytes, JSON or a multipart form.

Promises: no body grows beyond its limit in memory; a body that is too large is read to its end
(up to a bound) before it is refused, so that the client hears why; malformed forms are refused in
words. The content type never decides whether something is JSON.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from kythera.deploy.documents import read_json, read_object
from kythera.deploy.refusals import too_big, unreadable
from kythera.deploy.upload import Part
from kythera.model.errors import Refusal
from kythera.model.limits import MIB

BODY_S = 300
DRAINED_BYTES_MAX = 512 * MIB
LARGE_BODY_BYTES = 1 * MIB
LARGE_BODIES_AT_ONCE = 4
ESCAPED = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))
"""What browsers and their like escape in the names of a form, and nothing else."""


async def consume(request: Request, bytes_max: int, take: Callable[[bytes], object]) -> None:
    """Hand a body's pieces to `take`; raise the refusal once all of a too large one has passed."""
    size = 0
    with anyio.move_on_after(BODY_S) as deadline:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= bytes_max:
                take(chunk)
            elif size > DRAINED_BYTES_MAX:
                break
    if deadline.cancelled_caught:
        raise Refusal(10026, f"The body did not arrive within {BODY_S} s.", status=408)
    if size > bytes_max:
        raise too_big(f"The body is larger than {bytes_max:,} bytes.")


async def read_body(request: Request, bytes_max: int) -> bytes:
    """Return a whole body."""
    whole = bytearray()
    await consume(request, bytes_max, whole.extend)
    return bytes(whole)


async def json_body(request: Request, bytes_max: int) -> Any:
    """Return a body as JSON, whatever its content type."""
    return read_json(await read_body(request, bytes_max) or b"null", "The body")


async def object_body(request: Request, bytes_max: int) -> dict[str, Any]:
    """Return a body as a JSON object; an empty body is an empty object."""
    return read_object(await read_body(request, bytes_max), "The body")


@asynccontextmanager
async def room_for(request: Request, limiter: anyio.CapacityLimiter) -> AsyncIterator[None]:
    """Hold a place among the large bodies in memory; small ones need none."""
    length = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,15}", length) and int(length) <= LARGE_BODY_BYTES:
        yield
        return
    async with limiter:
        yield


class _Form:
    """Collects the parts of one form from the parser's callbacks."""

    def __init__(self, parts_max: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._parts_max = parts_max
        self._headers: dict[str, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._data = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._more_data,
            "on_part_end": self._end_part,
            "on_header_field": self._more_name,
            "on_header_value": self._more_value,
            "on_header_end": self._end_header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._parts_max:
            raise too_big(f"The form has more than {self._parts_max} parts.")
        self._headers, self._data = {}, bytearray()

    def _more_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _more_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _more_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end_part(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise unreadable("A part of the form has no name.")
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                name=_text(options[b"name"]),
                filename=None if filename is None else _text(filename),
                content_type=self._headers.get("content-type", b"").decode("latin-1"),
                data=bytes(self._data),
            )
        )
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    text = name.decode("utf-8", "replace")
    for escaped, plain in ESCAPED:
        text = text.replace(escaped, plain)
    return text


class _Reader:
    """Feeds the parser; after the first thing that is wrong it only waits for the end."""

    def __init__(self, boundary: bytes, form: _Form) -> None:
        self.refused: Refusal | None = None
        self._form = form
        self._parser: MultipartParser | None = None
        try:
            self._parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            self.refused = unreadable(f"The form cannot be read: {error}.")

    def take(self, chunk: bytes) -> None:
        """Read on."""
        if self.refused is not None or self._parser is None:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            self.refused = unreadable(f"The form cannot be read: {error}.")
        except Refusal as error:
            self.refused = error


async def form_body(request: Request, *, bytes_max: int, parts_max: int) -> list[Part]:
    """Return the parts of a multipart form."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        await consume(request, bytes_max, len)
        raise unreadable("The body must be a multipart form (multipart/form-data; boundary=…).")
    form = _Form(parts_max)
    reader = _Reader(boundary, form)
    await consume(request, bytes_max, reader.take)
    if reader.refused is not None:
        raise reader.refused
    if not form.ended:
        raise unreadable("The form ends before its last boundary.")
    return form.parts
