"""What a project's bindings lead to: found by its name, or made, as `wrangler deploy` does it.

Talks to the API alone. A binding without an id is inherited from the worker's newest version; what
was never bound gets the name that the configuration gives, else `<worker>-<binding>`. A queue that
is only consumed is never made: a wrong name would wait for messages for ever.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from kythera.cli.client import Client
from kythera.cli.project_bindings import IDS, Consumer, Fields, Wanted
from kythera.cli.project_error import ProjectError
from kythera.model.errors import Refusal

NO_WORKER = 10007
ABSENT = {"d1": 7404, "r2_bucket": 10006}
"""What the API says of one that is not there."""
KV, QUEUES, DATABASES, BUCKETS, DISPATCH = (
    "/storage/kv/namespaces",
    "/queues",
    "/d1/database",
    "/r2/buckets",
    "/workers/dispatch/namespaces",
)
CALLED = {
    "kv_namespace": "KV namespace",
    "r2_bucket": "R2 bucket",
    "d1": "D1 database",
    "queue": "queue",
    "dispatch_namespace": "dispatch namespace",
}
PER_PAGE = 100


def provided(
    client: Client, worker: str, wanted: Sequence[Wanted], note: Callable[[str], None]
) -> list[Fields]:
    """Return the bindings to what is wanted, and make what is not there. Raises Refusal."""
    if not wanted:
        return []
    there = newest(client, worker)
    return [_provided(client, worker, each, there.get(each.binding), note) for each in wanted]


def newest(client: Client, worker: str) -> dict[str, Fields]:
    """Return the bindings of a worker's newest version by name; none for a new worker."""
    try:
        settings = client.call("GET", client.script(worker, "/settings")) or {}
    except Refusal as refusal:
        if refusal.code != NO_WORKER:
            raise
        return {}
    return {each["name"]: each for each in settings.get("bindings") or ()}


def _provided(
    client: Client,
    worker: str,
    wanted: Wanted,
    before: Fields | None,
    note: Callable[[str], None],
) -> Fields:
    if before is not None and before["type"] == wanted.type and _is_same(client, wanted, before):
        # What it says beside the name may have changed: then the name is said again.
        return wanted.led_to(before[IDS[wanted.type]]) if wanted.rest else wanted.inherited()
    name = wanted.name or f"{worker}-{wanted.binding.lower().replace('_', '-')}"
    found = FINDERS[wanted.type](client, name)
    if found is None:
        found = MAKERS[wanted.type](client, name)
        note(f"Made the {CALLED[wanted.type]} {name}.")
    return wanted.led_to(found)


def _is_same(client: Client, wanted: Wanted, before: Fields) -> bool:
    """Tell whether the newest version's binding leads to what the configuration names."""
    if wanted.name is None:
        return True
    if wanted.type != "d1":
        return str(before[IDS[wanted.type]]) == wanted.name
    return _database(client, wanted.name) == str(before["id"])


def _database(client: Client, name: str) -> str | None:
    found = _or_none(client, f"{DATABASES}/{quote(name, safe='')}", ABSENT["d1"])
    return None if found is None else str(found["uuid"])


def _bucket(client: Client, name: str) -> str | None:
    found = _or_none(client, f"{BUCKETS}/{quote(name, safe='')}", ABSENT["r2_bucket"])
    return None if found is None else name


def _or_none(client: Client, path: str, absent: int) -> Any:
    try:
        return client.call("GET", path)
    except Refusal as refusal:
        if refusal.code != absent:
            raise
        return None


def _namespace(client: Client, title: str) -> str | None:
    found = (each["id"] for each in _listed(client, KV) if each["title"] == title)
    return next(found, None)


def _dispatch(client: Client, name: str) -> str | None:
    named = (each["namespace_name"] for each in _listed(client, DISPATCH))
    return next((each for each in named if each == name), None)


def _listed(client: Client, path: str) -> Iterable[Fields]:
    """Yield all of a list, page by page until one is not full."""
    page = 1
    while True:
        found = client.call("GET", path, params={"per_page": PER_PAGE, "page": page}) or []
        yield from found
        if len(found) < PER_PAGE:
            return
        page += 1


def _queue(client: Client, name: str) -> str | None:
    return next(iter(queues(client, [name])), None)


def queues(client: Client, names: Sequence[str]) -> dict[str, Fields]:
    """Return those of these queues that are there, by name."""
    found = client.call("GET", QUEUES, params={"name": list(names)}) or []
    return {each["queue_name"]: each for each in found}


def _make_namespace(client: Client, title: str) -> str:
    return str(client.call("POST", KV, json={"title": title})["id"])


def _make_database(client: Client, name: str) -> str:
    return str(client.call("POST", DATABASES, json={"name": name})["uuid"])


def _make_bucket(client: Client, name: str) -> str:
    client.call("POST", BUCKETS, json={"name": name})
    return name


def _make_queue(client: Client, name: str) -> str:
    client.call("POST", QUEUES, json={"queue_name": name})
    return name


def _make_dispatch(client: Client, name: str) -> str:
    client.call("POST", DISPATCH, json={"name": name})
    return name


FINDERS: dict[str, Callable[[Client, str], str | None]] = {
    "kv_namespace": _namespace,
    "r2_bucket": _bucket,
    "d1": _database,
    "queue": _queue,
    "dispatch_namespace": _dispatch,
}
MAKERS: dict[str, Callable[[Client, str], str]] = {
    "kv_namespace": _make_namespace,
    "r2_bucket": _make_bucket,
    "d1": _make_database,
    "queue": _make_queue,
    "dispatch_namespace": _make_dispatch,
}


def refuse_no_queue(
    client: Client, worker: str, consumers: Sequence[Consumer], wanted: Sequence[Wanted]
) -> None:
    """Refuse to consume a queue that neither is there nor will be made. Raises ProjectError."""
    made = {each.name for each in wanted if each.type == "queue"}
    made |= {
        f"{worker}-{each.binding.lower().replace('_', '-')}"
        for each in wanted
        if each.type == "queue" and each.name is None
    }
    asked = [each.queue for each in consumers if each.queue not in made]
    missing = [name for name in asked if name not in queues(client, asked)] if asked else []
    if missing:
        raise ProjectError(
            f"there is no queue {missing[0]!r}, which queues.consumers names.",
            remedy=f"Make it first (kythera wrangler -- queues create {missing[0]}), or bind it as a "
            "producer: then it is made.",
        )


def put_consumers(client: Client, worker: str, consumers: Sequence[Consumer]) -> None:
    """Lead queues to this worker, or to whoever pulls; those not named stay as they are."""
    there = queues(client, [each.queue for each in consumers]) if consumers else {}
    for wanted in consumers:
        queue = there[wanted.queue]
        own = {**wanted.fields, "script_name": worker}
        if wanted.fields["type"] == "http_pull":
            own = wanted.fields
        known = [each["consumer_id"] for each in queue["consumers"] if _is_ours(each, own)]
        path = f"{QUEUES}/{queue['queue_id']}/consumers"
        if known:
            client.call("PUT", f"{path}/{known[0]}", json=own)
        else:
            client.call("POST", path, json=own)


def _is_ours(consumer: Fields, own: Fields) -> bool:
    return (consumer["type"], consumer.get("script")) == (own["type"], own.get("script_name"))
