"""A trace event as a person reads it. Pure: one event in, some lines out."""

import json
from datetime import UTC, datetime
from typing import Any

OUTCOMES = {
    "ok": "Ok",
    "canceled": "Canceled",
    "exception": "Exception",
    "exceededCpu": "Exceeded CPU limit",
    "exceededMemory": "Exceeded memory limit",
    "unknown": "Unknown",
}
STATUSES = {
    "ok": ["ok"],
    "error": ["exception", "exceededCpu", "exceededMemory", "unknown"],
    "canceled": ["canceled"],
}


def filters(
    *,
    statuses: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    search: str | None = None,
    sampling_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Return the filters of a tail as the API takes them."""
    found: list[dict[str, Any]] = []
    if sampling_rate is not None:
        found.append({"sampling_rate": sampling_rate})
    if statuses:
        found.append({"outcome": [each for name in statuses for each in STATUSES[name]]})
    if methods:
        found.append({"method": [method.upper() for method in methods]})
    if search:
        found.append({"query": search})
    return found


def pretty(event: dict[str, Any]) -> str:
    """Return one event's lines: what came, how it ended, what it logged and threw."""
    kind = event.get("event") or {}
    if kind.get("type") in ("overload", "overload-stop"):
        return f"({kind['type']}) {kind.get('message', '')}"
    outcome = OUTCOMES.get(event["outcome"], event["outcome"])
    lines = [
        f"{what(kind)}{_where(event)} - {outcome}{_status(kind)} @ {when(event.get('eventTimestamp'))}"
    ]
    lines += [f"  ({log['level']}) {said(log['message'])}" for log in event.get("logs") or []]
    for thrown in event.get("exceptions") or []:
        lines.append(f"  ✘ {thrown['name']}: {thrown['message']}")
        lines += [f"    {line}" for line in (thrown.get("stack") or "").splitlines()[1:]]
    return "\n".join(lines)


def what(kind: dict[str, Any]) -> str:
    """Return what started the event."""
    if "request" in kind:
        return f"{kind['request']['method']} {kind['request']['url']}"
    if "cron" in kind:
        return f"cron {kind['cron']}"
    if "queue" in kind:
        return f"queue {kind['queue']} ({kind.get('batchSize', '?')} messages)"
    if "rpcMethod" in kind:
        return f"rpc {kind['rpcMethod']}"
    if "getWebSocketEvent" in kind:
        return (
            f"websocket {(kind['getWebSocketEvent'] or {}).get('webSocketEventType', '')}".rstrip()
        )
    return "alarm" if "scheduledTime" in kind else "event"


def _where(event: dict[str, Any]) -> str:
    """Return in which class of Durable Objects it happened, if it did."""
    in_object = event.get("executionModel") == "durableObject"
    return f" in {event.get('entrypoint') or 'an object'}" if in_object else ""


def _status(kind: dict[str, Any]) -> str:
    status = (kind.get("response") or {}).get("status")
    return f" {status}" if status else ""


def when(milliseconds: float | None) -> str:
    """Return a moment, in UTC."""
    if milliseconds is None:
        return "?"
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def said(message: Any) -> str:
    """Return what a console call was given, values separated by blanks."""
    values = message if isinstance(message, list) else [message]
    return " ".join(v if isinstance(v, str) else json.dumps(v) for v in values)
