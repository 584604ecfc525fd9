"""What is asked of queues, read within limits, and what is told of them: both in Cloudflare's shapes.

Pure. Refuses what the engine cannot do by name: messages are kept for four days, no more and no less.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from kythera.deploy.documents import as_amount, as_flag, as_list, as_object, as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.names import QUEUE_NAME
from kythera.model.records import Resource

BAD_NAME = 11003
RETENTION_S = 345_600
FORMATS = ("json", "text", "bytes", "v8")
MESSAGE_BYTES_MAX = 128_000

Fields = dict[str, Any]


def read_name(value: Any) -> str:
    """Return a queue's name. Raises Refusal (11003)."""
    name = as_text(value, "queue_name")
    if QUEUE_NAME.fullmatch(name) is None:
        raise Refusal(
            BAD_NAME,
            f"Invalid queue name: {shown(name)}. Must match ^{QUEUE_NAME.pattern}$",
        )
    return name


def read_settings(value: Any, before: Mapping[str, Any], limits: Limits) -> Fields:
    """Return a queue's settings: those there were, with what is asked for."""
    asked = as_object(value or {}, "settings")
    found = dict(before)
    delay = asked.get("delivery_delay")
    if delay is not None:
        most = limits.queue_delay_s_max
        found["delivery_delay"] = as_amount(delay, "delivery_delay", least=0, most=most)
    if asked.get("message_retention_period", RETENTION_S) not in (None, RETENTION_S):
        raise invalid(
            f"message_retention_period: this platform keeps messages for {RETENTION_S:,} s.",
            remedy=f"Leave it out, or write {RETENTION_S}.",
        )
    if asked.get("delivery_paused") is not None:
        found["delivery_paused"] = as_flag(asked["delivery_paused"], "delivery_paused")
    return found


FRESH: Fields = {
    "delivery_delay": 0,
    "message_retention_period": RETENTION_S,
    "delivery_paused": False,
}


def read_consumer(document: Fields, limits: Limits) -> Fields:
    """Return a consumer without its id, with Cloudflare's defaults where nothing is said."""
    kind = as_text(document.get("type") or "worker", "type")
    if kind not in ("worker", "http_pull"):
        raise invalid(f"A consumer of type {shown(kind)} is not offered: worker or http_pull.")
    asked = as_object(document.get("settings") or {}, "settings")
    dead = as_text(document.get("dead_letter_queue") or "", "dead_letter_queue")
    found: Fields = {"type": kind, "settings": _settings(kind, asked, limits)}
    if dead:
        found["dead_letter_queue"] = read_name(dead)
    if kind == "worker":
        found["script"] = as_text(document.get("script_name") or document.get("script"), "script")
    return found


def _settings(kind: str, asked: Fields, limits: Limits) -> Fields:
    def amount(name: str, usual: int, least: int, most: int) -> int:
        value = asked.get(name)
        return usual if value is None else as_amount(value, name, least=least, most=most)

    found: Fields = {
        "batch_size": amount("batch_size", 10, 1, limits.queue_batch_messages_max),
        "max_retries": amount("max_retries", 3, 0, limits.queue_retries_max),
        "retry_delay": amount("retry_delay", 0, 0, limits.queue_delay_s_max),
    }
    if kind == "http_pull":
        most = limits.queue_hidden_ms_max
        found["visibility_timeout_ms"] = amount("visibility_timeout_ms", 30_000, 1, most)
        return found
    found["max_wait_time_ms"] = amount("max_wait_time_ms", 5_000, 0, limits.queue_batch_wait_ms_max)
    if asked.get("max_concurrency") is not None:
        found["max_concurrency"] = amount("max_concurrency", 1, 1, limits.queue_concurrency_max)
    return found


def view(queue: Resource, catalog: Catalog) -> Fields:
    """Return a queue as the API shows it."""
    producers = [{"type": "worker", "script": name} for name in producers_of(catalog, queue)]
    consumers = list(queue.fields.get("consumers", ()))
    return {
        "queue_id": queue.id,
        "queue_name": queue.name,
        "created_on": queue.created_on,
        "modified_on": queue.fields.get("modified_on", queue.created_on),
        "producers": producers,
        "producers_total_count": len(producers),
        "consumers": [{**each, "queue_name": queue.name} for each in consumers],
        "consumers_total_count": len(consumers),
        "settings": queue.fields.get("settings", FRESH),
    }


def producers_of(catalog: Catalog, queue: Resource) -> list[str]:
    """Return the workers that have a binding to a queue in what they serve."""
    found = []
    for worker in catalog.workers(queue.account):
        deployed = catalog.deployed(worker.account, worker.name)
        for split in () if deployed is None else deployed.versions:
            version = catalog.version(worker.account, worker.name, split.version_id)
            bindings = () if version is None else version.bindings
            if any(b.type == "queue" and b.fields["queue_name"] == queue.name for b in bindings):
                found.append(worker.name)
    return sorted(set(found))


def read_message(document: Fields, limits: Limits) -> tuple[Fields, int | None]:
    """Return a message as the engine takes it (base64), and its delay in seconds."""
    kind = as_text(document.get("content_type") or "json", "content_type")
    if kind not in FORMATS[:3]:
        raise invalid(f"content_type {shown(kind)} is not offered: json, text or bytes.")
    body = document.get("body")
    if kind == "json":
        raw = msgspec.json.encode(body)
    elif kind == "text":
        raw = as_text(body, "body").encode()
    else:
        raw = _decoded(as_text(body, "body"))
    if len(raw) > MESSAGE_BYTES_MAX:
        raise invalid(f"A message has {MESSAGE_BYTES_MAX:,} bytes at most; this one {len(raw):,}.")
    delay = document.get("delay_seconds")
    if delay is not None:
        delay = as_amount(delay, "delay_seconds", least=0, most=limits.queue_delay_s_max)
    message: Fields = {"body": base64.b64encode(raw).decode(), "contentType": kind}
    return message if delay is None else {**message, "delaySecs": delay}, delay


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise invalid("The body of a message of type bytes is base64.") from None


def read_leases(value: Any, what: str, limits: Limits) -> list[Fields]:
    """Return the leases that are to be settled, each with its delay."""
    found = []
    for entry in as_list(value or [], what):
        each = as_object(entry, f"an entry of {what}")
        lease = as_text(each.get("lease_id"), "lease_id")
        parts = lease.split(".")
        if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 16 for p in parts):
            raise invalid(f"{shown(lease)} is not a lease.")
        delay = each.get("delay_seconds") or 0
        most = limits.queue_delay_s_max
        delay_s = as_amount(delay, "delay_seconds", least=0, most=most)
        found.append({"lease": lease, "delay_s": delay_s})
    return found
