"""Queues: made, listed, given consumers, paused, purged, sent to and pulled from.

What there is stands in records; messages are with the store (`run/js/queues.js`) of each machine.
Promises: a name means one queue; a deleted one's messages are gone when the answer says so.
Refuses, with Cloudflare's codes: names that are no names (11003) or taken (11009), a queue that is not
there (11000), a second consumer (11004), a consumer without a `queue` handler (11001), and to delete a
queue that a worker still sends to.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control import queue_forms
from kythera.control.bodies import object_body
from kythera.control.caller import calling
from kythera.control.envelope import listed, success
from kythera.control.queue_forms import producers_of, read_consumer, read_name, read_settings, view
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.control.store_calls import Asked
from kythera.deploy.documents import as_amount, as_list, as_object
from kythera.deploy.refusals import worker_absent
from kythera.ground.clock import iso
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.limits import MIB
from kythera.model.names import queue_id
from kythera.model.records import Resource

STORE, TYPE = "queues", "queue"
ABSENT, NO_HANDLER, HAS_CONSUMER, TAKEN, IN_USE, TOO_MANY = 11000, 11001, 11004, 11009, 11005, 11010
BODY_BYTES_MAX = 1 * MIB
TURN = "queues"
Fields = dict[str, Any]


def queues_of(services: Services) -> list[Resource]:
    """Return the account's queues, by name."""
    return services.store.catalog().resources(services.account, TYPE)


def _named(request: Request) -> tuple[Services, Resource]:
    services, wanted = services_of(request), request.path_params["queue"]
    found = services.store.catalog().resource(services.account, TYPE, wanted)
    if found is None:
        raise Refusal(
            ABSENT,
            f"Queue {wanted[:100]!r} does not exist.",
            status=404,
            remedy="See what there is: wrangler queues list",
        )
    return services, found


async def get_queues(request: Request) -> Response:
    """GET queues[?name=…&name=…]. A token for some workers sees none: they are the account's."""
    services, caller = services_of(request), calling.get()
    wanted = request.query_params.getlist("name")
    mine = [] if caller is not None and caller.workers else queues_of(services)
    catalog = services.store.catalog()
    return listed(request, [view(q, catalog) for q in mine if not wanted or q.name in wanted])


async def get_queue(request: Request) -> Response:
    """GET queues/{id}."""
    services, queue = _named(request)
    return success(view(queue, services.store.catalog()))


async def post_queue(request: Request) -> Response:
    """POST queues: `queue_name`, and maybe `settings`."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    name = read_name(document.get("queue_name"))
    settings = read_settings(document.get("settings"), queue_forms.FRESH, limits)

    async def write() -> Resource:
        there = queues_of(services)
        if any(queue.name == name for queue in there):
            raise Refusal(
                TAKEN,
                f"Queue name '{name}' is already taken. Please use a different name and try again.",
                status=409,
            )
        _refuse_too_many(len(there), limits.queues_max)
        made = _fresh(services, name, settings)
        await services.store.write([put(made, 0)])
        return made

    made = await services.store.settled(TURN, write)
    return success(view(made, services.store.catalog()))


def _refuse_too_many(there: int, most: int) -> None:
    if there >= most:
        raise Refusal(
            TOO_MANY,
            f"There are {there} queues, as many as may be (limit queues_max).",
            status=403,
            remedy="Delete those that nobody uses: wrangler queues list",
        )


def _fresh(services: Services, name: str, settings: Fields) -> Resource:
    now = iso(services.clock.now())
    return Resource(
        account=services.account,
        type=TYPE,
        id=queue_id(services.account, name),
        name=name,
        created_on=now,
        fields={
            "settings": settings,
            "consumers": [],
            "modified_on": now,
            "machine": services.me,
        },
    )


def _changed(services: Services, queue: Resource, **fields: Any) -> Resource:
    now = iso(services.clock.now())
    return msgspec.structs.replace(queue, fields={**queue.fields, **fields, "modified_on": now})


async def patch_queue(request: Request) -> Response:
    """PATCH or PUT queues/{id}: `settings`; a queue keeps its name."""
    services, queue = _named(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    if document.get("queue_name", queue.name) != queue.name:
        raise Refusal(TAKEN, "A queue keeps its name.", remedy="Make another one.")

    async def write() -> Resource:
        _, current = _named(request)
        settings = read_settings(document.get("settings"), current.fields["settings"], limits)
        after = _changed(services, current, settings=settings)
        await services.store.write([put(after)])
        return after

    after = await services.store.settled(TURN, write)
    return success(view(after, services.store.catalog()))


async def delete_queue(request: Request) -> Response:
    """DELETE queues/{id}: its messages, then the record."""
    services, queue = _named(request)
    senders = producers_of(services.store.catalog(), queue)
    if senders:
        raise Refusal(
            IN_USE,
            f"Queue {queue.name!r} is still sent to by {', '.join(senders)}.",
            status=409,
            remedy="Take its binding out of them first, and deploy.",
        )
    await _ask(services, queue, "purge", {})

    async def write() -> None:
        _, current = _named(request)
        await services.store.write([end(current.key())])

    await services.store.settled(TURN, write)
    return success(None)


# -- consumers -------------------------------------------------------------------------------------


async def get_consumers(request: Request) -> Response:
    """GET queues/{id}/consumers."""
    services, queue = _named(request)
    return listed(request, view(queue, services.store.catalog())["consumers"])


async def post_consumer(request: Request) -> Response:
    """POST queues/{id}/consumers: a worker, or whoever pulls; one at a time."""
    return await _put_consumer(request, "")


async def put_consumer(request: Request) -> Response:
    """PUT queues/{id}/consumers/{consumer}."""
    return await _put_consumer(request, request.path_params["consumer"])


async def _put_consumer(request: Request, known: str) -> Response:
    services, _ = _named(request)
    limits = services.platform.limits
    consumer = read_consumer(await object_body(request, limits.json_body_bytes_max), limits)

    async def write() -> Fields:
        _, queue = _named(request)
        there = queue.fields["consumers"]
        if known and all(each["consumer_id"] != known for each in there):
            raise _no_consumer(known)
        if any(each["consumer_id"] != known for each in there):
            raise Refusal(HAS_CONSUMER, f"Queue {queue.name!r} has a consumer already.", status=409)
        _refuse_deaf(services, consumer)
        made = {"consumer_id": known or services.chance.hex(32), **consumer}
        made.setdefault("created_on", iso(services.clock.now()))
        changes = [put(_changed(services, queue, consumers=[made])), *_dead(services, consumer)]
        await services.store.write(changes)
        return {**made, "queue_name": queue.name}

    return success(await services.store.settled(TURN, write))


def _refuse_deaf(services: Services, consumer: Fields) -> None:
    """Refuse a worker that is not there, or that no message can be given to."""
    name = consumer.get("script")
    if name is None:
        return
    catalog = services.store.catalog()
    if catalog.worker(services.account, name) is None:
        raise worker_absent(name)
    deployed = catalog.deployed(services.account, name)
    for split in () if deployed is None else deployed.versions:
        version = catalog.version(services.account, name, split.version_id)
        if version is not None and TYPE not in version.handlers:
            raise Refusal(
                NO_HANDLER,
                f"queue handler is missing: Worker {name!r} does not export one.",
                remedy="Add `async queue(batch, env, ctx)` to its default export, and deploy.",
            )


def _dead(services: Services, consumer: Fields) -> list[Change]:
    """Return what makes a consumer's dead letter queue, if there is none of that name."""
    name = consumer.get("dead_letter_queue", "")
    there = queues_of(services)
    if not name or any(queue.name == name for queue in there):
        return []
    _refuse_too_many(len(there), services.platform.limits.queues_max)
    return [put(_fresh(services, name, dict(queue_forms.FRESH)), 0)]


async def get_consumer(request: Request) -> Response:
    """GET queues/{id}/consumers/{consumer}."""
    services, queue = _named(request)
    known = request.path_params["consumer"]
    for each in view(queue, services.store.catalog())["consumers"]:
        if each["consumer_id"] == known:
            return success(each)
    raise _no_consumer(known)


async def delete_consumer(request: Request) -> Response:
    """DELETE queues/{id}/consumers/{consumer}: messages wait from now on."""
    services, _ = _named(request)
    known = request.path_params["consumer"]

    async def write() -> None:
        _, queue = _named(request)
        left = [each for each in queue.fields["consumers"] if each["consumer_id"] != known]
        if len(left) == len(queue.fields["consumers"]):
            raise _no_consumer(known)
        await services.store.write([put(_changed(services, queue, consumers=left))])

    await services.store.settled(TURN, write)
    return success(None)


def _no_consumer(known: str) -> Refusal:
    return Refusal(ABSENT, f"There is no consumer {known[:64]!r} of this queue.", status=404)


# -- messages --------------------------------------------------------------------------------------


async def _ask(services: Services, queue: Resource, action: str, document: Any) -> Fields:
    """Have the store of the queue's machine do something. Raises StoreUnavailable."""
    return await _post(services, queue, f"/ask/{action}", document)


async def _post(services: Services, queue: Resource, path: str, document: Any) -> Fields:
    home = queue.fields.get("machine", services.me)
    asked = Asked(STORE, services.account, queue.id, "" if home == services.me else home)
    body = msgspec.json.encode(document)
    within_s = services.platform.limits.queue_call_ms / 1000
    status, content = await services.stores.ask(asked, path, body, within_s)
    if status != 200:
        said = content.decode(errors="replace")[:200]
        raise StoreUnavailable(f"The queues of this machine answered {status}: {said}")
    told: Fields = msgspec.json.decode(content)
    return told


async def purge(request: Request) -> Response:
    """POST queues/{id}/purge: with `delete_messages_permanently` alone."""
    services, queue = _named(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    if document.get("delete_messages_permanently") is not True:
        raise Refusal(10021, "Say `delete_messages_permanently: true` to purge a queue.")
    await _ask(services, queue, "purge", {})
    return success({"started_on": iso(services.clock.now()), "complete": True})


async def get_purge(request: Request) -> Response:
    """GET queues/{id}/purge: each purge is complete when it is answered."""
    services, _ = _named(request)
    return success({"started_on": iso(services.clock.now()), "completed": "complete"})


async def metrics(request: Request) -> Response:
    """GET queues/{id}/metrics: of this machine."""
    services, queue = _named(request)
    return success(await _ask(services, queue, "metrics", {}))


async def post_message(request: Request) -> Response:
    """POST queues/{id}/messages: `body`, `content_type`, `delay_seconds`."""
    return await _send(request, [await object_body(request, BODY_BYTES_MAX)], None)


async def post_messages(request: Request) -> Response:
    """POST queues/{id}/messages/batch: `messages`, and `delay_seconds` for those without."""
    document = await object_body(request, BODY_BYTES_MAX)
    messages = [as_object(m, "a message") for m in as_list(document.get("messages"), "messages")]
    return await _send(request, messages, document.get("delay_seconds"))


async def _send(request: Request, documents: list[Fields], delay: Any) -> Response:
    services, queue = _named(request)
    limits = services.platform.limits
    if not 1 <= len(documents) <= limits.queue_batch_messages_max:
        raise Refusal(10021, f"Send 1 to {limits.queue_batch_messages_max} messages.")
    asked = [{"delay_seconds": delay, **document} for document in documents]
    messages = [queue_forms.read_message(document, limits)[0] for document in asked]
    told = await _post(services, queue, "/batch", {"messages": messages})
    return success(told)


def _puller(queue: Resource) -> Fields:
    """Return whoever pulls. Raises Refusal when nobody may."""
    for consumer in queue.fields["consumers"]:
        if consumer["type"] == "http_pull":
            found: Fields = consumer
            return found
    raise Refusal(
        NO_HANDLER,
        f"Queue {queue.name!r} is not pulled from: it has no consumer of type http_pull.",
        remedy=f"Add one: wrangler queues consumer http add {queue.name}",
    )


async def pull(request: Request) -> Response:
    """POST queues/{id}/messages/pull: `batch_size`, `visibility_timeout_ms`."""
    services, queue = _named(request)
    limits = services.platform.limits
    document = await object_body(request, BODY_BYTES_MAX)
    consumer = _puller(queue)
    usual, dead = consumer["settings"], consumer.get("dead_letter_queue", "")
    size = document.get("batch_size") or usual["batch_size"]
    hidden = document.get("visibility_timeout_ms") or usual["visibility_timeout_ms"]
    asked = {
        "batch_size": as_amount(size, "batch_size", most=limits.queue_batch_messages_max),
        "visibility_timeout_ms": as_amount(
            hidden, "visibility_timeout_ms", most=limits.queue_hidden_ms_max
        ),
        "max_retries": usual["max_retries"],
        "dead_letter_queue": queue_id(services.account, dead) if dead else "",
    }
    told = await _ask(services, queue, "pull", asked)
    messages = [
        {
            "id": each["id"],
            "lease_id": each["lease"],
            "body": each["body"],
            "timestamp_ms": each["timestamp_ms"],
            "attempts": each["attempts"],
            "metadata": {"CF-Content-Type": each["format"]},
        }
        for each in told["messages"]
    ]
    return success({"message_backlog_count": told["backlog_count"], "messages": messages})


async def ack(request: Request) -> Response:
    """POST queues/{id}/messages/ack: `acks` and `retries`, by lease."""
    services, queue = _named(request)
    limits = services.platform.limits
    document = await object_body(request, BODY_BYTES_MAX)
    consumer = _puller(queue)
    retries = queue_forms.read_leases(document.get("retries"), "retries", limits)
    asked = {
        "acks": queue_forms.read_leases(document.get("acks"), "acks", limits),
        "retries": [
            {**each, "delay_s": each["delay_s"] or consumer["settings"]["retry_delay"]}
            for each in retries
        ],
    }
    told = await _ask(services, queue, "settle", asked)
    return success({"ackCount": told["acked"], "retryCount": told["retried"], "warnings": []})


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/queues"
    one, consumers = f"{root}/{{queue}}", f"{root}/{{queue}}/consumers"
    return [
        Route(root, get_queues, methods=["GET"]),
        Route(root, post_queue, methods=["POST"]),
        Route(one, get_queue, methods=["GET"]),
        Route(one, patch_queue, methods=["PATCH", "PUT"]),
        Route(one, delete_queue, methods=["DELETE"]),
        Route(consumers, get_consumers, methods=["GET"]),
        Route(consumers, post_consumer, methods=["POST"]),
        Route(f"{consumers}/{{consumer}}", get_consumer, methods=["GET"]),
        Route(f"{consumers}/{{consumer}}", put_consumer, methods=["PUT"]),
        Route(f"{consumers}/{{consumer}}", delete_consumer, methods=["DELETE"]),
        Route(f"{one}/purge", get_purge, methods=["GET"]),
        Route(f"{one}/purge", purge, methods=["POST"]),
        Route(f"{one}/metrics", metrics, methods=["GET"]),
        Route(f"{one}/messages", post_message, methods=["POST"]),
        Route(f"{one}/messages/batch", post_messages, methods=["POST"]),
        Route(f"{one}/messages/pull", pull, methods=["POST"]),
        Route(f"{one}/messages/ack", ack, methods=["POST"]),
    ]
