"""The Cache API's rules: what is kept, for how long, and what of it answers which request. Pure.

As Cloudflare documents its Cache API, but for `Vary`, which is honoured as RFC 9111 has it: a
response never answers a request that it was not chosen for.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

HEAD_BYTES_MAX = 128 * 1024
"""Of a response that is put."""
USUAL_S = {
    **dict.fromkeys((200, 206, 301), 7_200.0),
    **dict.fromkeys((302, 303), 1_200.0),
    **dict.fromkeys((404, 410), 180.0),
    403: 60.0,
}
"""How long what says nothing of it is kept, by status (Cloudflare's defaults at its edge)."""
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "content-length"),
        *("cf-cache-status", "age"),
    }
)
"""What belongs to one transfer, or is said anew at each."""
_HEAD = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d) ?([^\r\n]*)\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
_DIRECTIVE = re.compile(r'\s*([^\s=,;"]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,"]*)))?\s*(?:,|$)')
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)

Headers = tuple[tuple[str, str], ...]


class NotAResponse(Exception):
    """What was put is no response as workerd writes it."""


@dataclass(frozen=True)
class Head:
    """A response without its body."""

    status: int
    reason: str
    headers: Headers
    length: int | None = None
    """Of the body that follows, if it was said."""

    def get(self, name: str) -> str | None:
        """Return a header's value, of several all of them with commas; None: it is not there."""
        found = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(found) if found else None


def split_head(raw: bytes) -> tuple[bytes, bytes] | None:
    """Split what was put into head and the beginning of its body; None: the head goes on."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    if not end:
        return None
    return head + b"\r\n", rest


def read_head(raw: bytes) -> Head:
    """Read a response's head, up to its last line's end. Raises NotAResponse."""
    start = _HEAD.match(raw)
    if start is None:
        raise NotAResponse
    fields: list[tuple[str, str]] = []
    for line in raw[start.end() :].split(b"\r\n"):
        if not line:
            continue
        found = _FIELD.fullmatch(line)
        if found is None:
            raise NotAResponse
        fields.append((found[1].decode("latin-1").lower(), found[2].strip().decode("latin-1")))
    length = next((value for name, value in fields if name == "content-length"), "")
    return Head(
        int(start[1]),
        start[2].decode("latin-1"),
        tuple((name, value) for name, value in fields if name not in HOP_BY_HOP),
        int(length) if length.isascii() and length.isdigit() else None,
    )


def directives(text: str | None) -> dict[str, str]:
    """Return the directives of a Cache-Control header by lower-case name."""
    found = _DIRECTIVE.finditer(text or "")
    return {match[1].lower(): match[2] or match[3] or "" for match in found}


def kept_for_s(head: Head, now: float) -> float:
    """Return how long a response is kept from now on, in seconds; 0: it is not."""
    said = directives(head.get("cache-control"))
    private = said.get("private")
    if head.status in (HTTPStatus.NOT_MODIFIED, HTTPStatus.PARTIAL_CONTENT):
        return 0.0
    if "no-store" in said or "no-cache" in said or private == "":
        return 0.0
    if head.get("set-cookie") is not None and "set-cookie" not in _names(private):
        return 0.0
    if "*" in vary_names(head):
        return 0.0
    for name in ("s-maxage", "max-age"):
        if name in said:
            return _seconds(said[name])
    if (expires := head.get("expires")) is not None:
        return max(0.0, _moment(expires) - now)
    return USUAL_S.get(head.status, 0.0)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0.0


def _names(text: str | None) -> list[str]:
    return [name.strip().lower() for name in (text or "").split(",") if name.strip()]


def _moment(text: str) -> float:
    """Return a date of HTTP in Unix seconds; long past when it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def to_keep(head: Head) -> Headers:
    """Return the headers that are kept: without those that Cache-Control keeps private."""
    private = _names(directives(head.get("cache-control")).get("private"))
    return tuple((name, value) for name, value in head.headers if name not in private)


def vary_names(head: Head) -> tuple[str, ...]:
    """Return the request headers that a response was chosen by, in order."""
    return tuple(sorted(set(_names(head.get("vary")))))


def variant(names: Iterable[str], request: Mapping[str, str]) -> str:
    """Return what of a request chooses among responses."""
    return "\n".join(f"{name}:{_folded(request.get(name, ''))}" for name in names)


def _folded(value: str) -> str:
    return ",".join(part.strip() for part in value.split(","))


def tags_of(head: Head) -> tuple[str, ...]:
    """Return a response's Cache-Tags."""
    return tuple(_names(head.get("cache-tag")))


def is_unchanged(head: Head, request: Mapping[str, str]) -> bool:
    """Tell whether who asks has this very response already (304)."""
    asked = request.get("if-none-match")
    if asked is not None:
        mine = _weak(head.get("etag") or "")
        return asked.strip() == "*" or bool(mine and mine in map(_weak, asked.split(",")))
    since, changed = request.get("if-modified-since"), head.get("last-modified")
    if since is None or changed is None:
        return False
    return 0.0 < _moment(changed) <= _moment(since)


def _weak(tag: str) -> str:
    return tag.strip().removeprefix("W/")


@dataclass(frozen=True)
class Part:
    """The bytes that answer: `size` of them from `start`."""

    start: int
    size: int


def part_of(head: Head, request: Mapping[str, str], size: int) -> Part | None:
    """Return the one range that is asked for, or None for all. Raises ValueError: there is none such.

    Of what is encoded (`Content-Encoding`) a part cannot be decoded: it is answered whole."""
    asked = _RANGE.fullmatch(request.get("range", ""))
    if asked is None or head.status != HTTPStatus.OK or head.get("content-encoding"):
        return None
    condition = request.get("if-range")
    if condition is not None and condition not in (head.get("etag"), head.get("last-modified")):
        return None
    first, last = asked[1], asked[2]
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size or start >= end:
        raise ValueError(f"no range of {size} bytes")
    return Part(start, end - start)
