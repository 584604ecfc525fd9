"""The queues' process: workerd's own queues (SQLite objects on the disk) behind a door of ours.

Pure. The process is there once an account has any queue. It starts with who consumes which queue then, and
is told of changes (`queue_tables`), so that none ends what is being delivered. A consumer whose queue is
paused, or whose worker is gone, is left out: messages then wait.
"""

from pathlib import Path
from typing import Any

from kythera.model.catalog import Catalog
from kythera.model.names import queue_id
from kythera.run.bindings import json_text
from kythera.run.outbound import NOTHING
from kythera.run.store_config import (
    DISK,
    StoreView,
    bundled,
    own_modules,
    store_config,
    store_worker,
)

QUEUE = "queues"
"""The store's name, and that of its folder on the disk: data are lost to a process that is given
another."""
TYPE = "queue"
"""Of its resources, and of the binding."""
EVENTS_INSIDE = Path("/run/events.sock")
"""Where the process, in its sandbox, has consumers called."""
_ENGINE_CONSUMER = "CONSUMER"

Fields = dict[str, Any]


def consumed(catalog: Catalog) -> dict[str, Fields]:
    """Return the queues that are delivered to a worker now, by id, with the consumer of each."""
    found = {}
    for queue in catalog.all_resources(TYPE):
        paused = queue.fields.get("settings", {}).get("delivery_paused", False)
        for consumer in queue.fields.get("consumers", ()):
            script = consumer.get("script", "")
            if not paused and script and catalog.worker(queue.account, script) is not None:
                found[queue.id] = {**consumer, "account": queue.account, "name": queue.name}
    return found


def queue_tables(catalog: Catalog) -> Fields:
    """Return what a running process is told: `consumers`, in the engine's words, `to`, their workers,
    and `delays`, in seconds; each by the queue's id."""
    consumers = consumed(catalog)
    return {
        "consumers": {queue: _engine(consumer) for queue, consumer in consumers.items()},
        "to": {queue: _to(consumer) for queue, consumer in consumers.items()},
        "delays": {
            queue.id: delay
            for queue in catalog.all_resources(TYPE)
            if (delay := queue.fields.get("settings", {}).get("delivery_delay", 0))
        },
    }


NO_TABLES: Fields = {"consumers": {}, "to": {}, "delays": {}}


def queues_config(
    catalog: Catalog, view: StoreView, events: Path, *, tables: Fields | None = None
) -> bytes | None:
    """Return the configuration; None while there is no queue. `events`: the agent's door, as the
    process sees it; `tables`: what it starts with, those of the records unless said."""
    if not catalog.all_resources(TYPE):
        return None
    begun = queue_tables(catalog) if tables is None else tables
    bindings: list[Fields] = [
        {"name": "SHARD", "durableObjectNamespace": {"className": "Shard"}},
        {"name": "KEY", "text": view.key},
        {"name": "CONSUMERS", "json": json_text(begun["consumers"])},
        {"name": "TO", "json": json_text(begun["to"])},
        {"name": "DELAYS", "json": json_text(begun["delays"])},
        {"name": "EVENTS", "service": {"name": "events"}},
        # The engine wants to see one at its start; what is called is a function of our shard.
        {"name": _ENGINE_CONSUMER, "service": {"name": NOTHING}},
    ]
    modules = [
        *own_modules("queues.js", "consumers.js", "passes.js", "gathered.js"),
        {**bundled("queues.js"), "name": "bundled-queues.js"},
    ]
    worker = store_worker(
        modules,
        bindings,
        compatibilityFlags=["service_binding_extra_handlers"],
        durableObjectNamespaces=[{"className": "Shard", "uniqueKey": QUEUE, "enableSql": True}],
        durableObjectStorage={"localDisk": DISK},
    )
    services: list[Fields] = [
        {"name": QUEUE, "worker": worker},
        {"name": "events", "external": {"address": f"unix:{events}", "http": {}}},
    ]
    return store_config(services, {"name": QUEUE}, view)


def _engine(consumer: Fields) -> Fields:
    """Return a consumer in the engine's words, nothing left to its defaults."""
    settings = consumer["settings"]
    dead = consumer.get("dead_letter_queue", "")
    return {
        "maxConcurrency": 0,
        "consumer": _ENGINE_CONSUMER,
        "maxBatchSize": settings["batch_size"],
        "maxBatchTimeout": settings["max_wait_time_ms"] / 1000,
        "maxRetries": settings["max_retries"],
        "retryDelay": settings["retry_delay"],
        "deadLetterQueue": queue_id(consumer["account"], dead) if dead else "",
    }


def _to(consumer: Fields) -> Fields:
    return {
        "account": consumer["account"],
        "worker": consumer["script"],
        "name": consumer["name"],
        "concurrency": consumer["settings"].get("max_concurrency") or 0,
    }
