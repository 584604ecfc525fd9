"""What a tail shows: filters, sampling when flooded, and events cut to size.

Pure. An event is one workerd trace item as JSON (`trace-v1`, as wrangler prints it). Time and
chance are arguments.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kythera.model.errors import Refusal

FILTERS_MAX = 20
VALUES_MAX = 100
TEXT_CHARACTERS_MAX = 4096
FLOODED = (
    "Tail is currently in sampling mode due to the high volume of messages."
    " To prevent messages from being dropped consider adding filters."
)
CALM = "Tail has exited sampling mode and is no longer dropping messages."


class Header(Struct, frozen=True):
    """A request header that must be there, and what its value must contain."""

    key: str
    query: str = ""


class Filter(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One condition; exactly one field is set (wrangler sends them one by one)."""

    sampling_rate: float | None = msgspec.field(default=None, name="sampling_rate")
    outcome: list[str] | None = None
    method: list[str] | None = None
    header: Header | None = None
    client_ip: list[str] | None = msgspec.field(default=None, name="client_ip")
    query: str | None = None
    script_version: str | list[str] | None = None


def read_filters(value: Any, client_ip: str) -> tuple[dict[str, Any], ...]:
    """Check the filters of a new tail, and put the watcher's own address for `self`."""
    if not isinstance(value, list) or len(value) > FILTERS_MAX:
        raise _refused(f"filters must be a list of at most {FILTERS_MAX} filters")
    try:
        filters = msgspec.convert(value, list[Filter])
    except msgspec.ValidationError as error:
        raise _refused(f"filters: {error}") from None
    for wanted in filters:
        _check(wanted)
    return tuple(msgspec.to_builtins(_own_address(wanted, client_ip)) for wanted in filters)


def _check(wanted: Filter) -> None:
    if wanted.sampling_rate is not None and not 0 <= wanted.sampling_rate <= 1:
        raise _refused("sampling_rate lies between 0 and 1")
    texts = [wanted.query or "", *(wanted.outcome or []), *(wanted.method or [])]
    texts += wanted.client_ip or []
    if isinstance(wanted.script_version, list):
        texts += wanted.script_version
    if wanted.header is not None:
        texts += [wanted.header.key, wanted.header.query]
    if len(texts) > VALUES_MAX or any(len(text) > TEXT_CHARACTERS_MAX for text in texts):
        raise _refused("a filter is too long")


def _refused(why: str) -> Refusal:
    return Refusal(10021, f"The tail cannot be made: {why}.")


def _own_address(wanted: Filter, client_ip: str) -> Filter:
    if wanted.client_ip is None:
        return wanted
    named = [client_ip if address == "self" else address for address in wanted.client_ip]
    return msgspec.structs.replace(wanted, client_ip=named)


def stored_filters(filters: Sequence[Mapping[str, Any]]) -> tuple[Filter, ...]:
    """Return the filters of a tail's record."""
    return tuple(msgspec.convert(list(filters), list[Filter]))


def wants(filters: Sequence[Filter], event: Mapping[str, Any], chance: float) -> bool:
    """Tell whether an event passes all filters; `chance` lies in [0, 1) and decides sampling."""
    return all(_passes(wanted, event, chance) for wanted in filters)


def _passes(wanted: Filter, event: Mapping[str, Any], chance: float) -> bool:
    request = _request(event)
    headers = _headers(request)
    if wanted.sampling_rate is not None and chance >= wanted.sampling_rate:
        return False
    if wanted.outcome is not None and event.get("outcome") not in wanted.outcome:
        return False
    if wanted.method is not None and not _is_method(request.get("method"), wanted.method):
        return False
    if wanted.header is not None:
        value = headers.get(wanted.header.key.lower())
        if value is None or wanted.header.query not in value:
            return False
    if wanted.client_ip is not None:
        return same_address(headers.get("cf-connecting-ip", ""), wanted.client_ip)
    if wanted.query is not None and not _says(event, wanted.query):
        return False
    return wanted.script_version is None or _is_version(event, wanted.script_version)


def _request(event: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = event.get("event")
    request = inner.get("request") if isinstance(inner, dict) else None
    return request if isinstance(request, dict) else {}


def _headers(request: Mapping[str, Any]) -> dict[str, str]:
    headers = request.get("headers")
    if not isinstance(headers, dict):
        return {}
    return {str(key).lower(): str(value) for key, value in headers.items()}


def _is_method(method: Any, wanted: Sequence[str]) -> bool:
    return str(method).upper() in {name.upper() for name in wanted}


def same_address(address: str, wanted: Sequence[str]) -> bool:
    """Tell whether an address is among those wanted; all loopback addresses are one."""
    return _plain_address(address) in {_plain_address(other) for other in wanted}


def _plain_address(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.strip())
    except ValueError:
        return address.strip().lower()
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return "loopback" if parsed.is_loopback else str(parsed)


def _says(event: Mapping[str, Any], text: str) -> bool:
    """Tell whether a log line or an exception contains the text."""
    logs = event.get("logs")
    exceptions = event.get("exceptions")
    said = [
        part
        for line in (logs if isinstance(logs, list) else [])
        if isinstance(line, dict)
        for part in (line["message"] if isinstance(line.get("message"), list) else [])
    ]
    thrown = [
        f"{error.get('name')}: {error.get('message')}"
        for error in (exceptions if isinstance(exceptions, list) else [])
        if isinstance(error, dict)
    ]
    return any(
        text in (part if isinstance(part, str) else msgspec.json.encode(part).decode())
        for part in [*said, *thrown]
    )


def _is_version(event: Mapping[str, Any], wanted: str | list[str]) -> bool:
    version = event.get("scriptVersion")
    found = version.get("id") if isinstance(version, dict) else None
    return found in ([wanted] if isinstance(wanted, str) else wanted)


class Flood:
    """How much one tail may say: above so many events a second it is sampled, and told so."""

    def __init__(self, events_per_s_max: int) -> None:
        self._events_per_s_max = events_per_s_max
        self._second = -1.0
        self._sent = 0
        self._dropped = 0
        self._flooded = False

    def admit(self, now: float) -> tuple[bool, str | None]:
        """Return whether this event may be sent, and a notice that goes before it, if any.

        The notice is `overload` at the first event dropped, `overload-stop` after a whole second
        without a drop."""
        notice = self._turn(now)
        if self._sent < self._events_per_s_max:
            self._sent += 1
            return True, notice
        self._dropped += 1
        if self._flooded:
            return False, notice
        self._flooded = True
        return False, "overload"

    def _turn(self, now: float) -> str | None:
        second = float(int(now))
        if second == self._second:
            return None
        calm = self._dropped == 0 or second > self._second + 1
        self._second, self._sent, self._dropped = second, 0, 0
        if self._flooded and calm:
            self._flooded = False
            return "overload-stop"
        return None


def notice(kind: str, worker: str, now: float) -> dict[str, Any]:
    """Return the event that tells a watcher that sampling has begun or ended."""
    return {
        "outcome": "unknown",
        "scriptName": worker,
        "logs": [],
        "exceptions": [],
        "diagnosticsChannelEvents": [],
        "eventTimestamp": int(now * 1000),
        "event": {"type": kind, "message": FLOODED if kind == "overload" else CALM},
    }


def frame(event: Mapping[str, Any], bytes_max: int) -> bytes:
    """Return an event as the watcher gets it, cut to size; what was cut is marked `truncated`."""
    whole = msgspec.json.encode(event)
    if len(whole) <= bytes_max:
        return whole
    kept = {**event, "truncated": True}
    for key in ("diagnosticsChannelEvents", "logs", "exceptions"):
        entries = kept.get(key)
        room = bytes_max - len(msgspec.json.encode({**kept, key: []}))
        kept[key] = _that_fit(entries if isinstance(entries, list) else [], room)
        shorter = msgspec.json.encode(kept)
        if len(shorter) <= bytes_max:
            return shorter
    return msgspec.json.encode(_bones(event))


def _that_fit(entries: Sequence[Any], room: int) -> list[Any]:
    kept = []
    for entry in entries:
        room -= len(msgspec.json.encode(entry)) + 1
        if room < 0:
            break
        kept.append(entry)
    return kept


def _bones(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what wrangler needs to print an event whose request alone is too large."""
    request = _request(event)
    inner: dict[str, Any] = {}
    if request:
        url, method = str(request.get("url", "")), str(request.get("method", ""))
        inner = {"request": {"url": url[:1024], "method": method[:32], "headers": {}, "cf": {}}}
    return {
        "outcome": str(event.get("outcome", "unknown"))[:64],
        "scriptName": str(event.get("scriptName", ""))[:64],
        "eventTimestamp": event.get("eventTimestamp"),
        "logs": [],
        "exceptions": [],
        "diagnosticsChannelEvents": [],
        "event": inner,
        "truncated": True,
    }
