"""Bindings, migrations and triggers of a wrangler configuration, as the upload has them.

Deciding code over parsed documents. What lacks an id is told apart (`Wanted`): `provision` finds or
makes it. What the platform does not offer is sent all the same: the API refuses it by name and says
what to use instead. A field that nobody reads is refused here, never dropped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kythera.cli.project_error import ProjectError

Fields = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How wrangler's configuration speaks of one type of binding."""

    type: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Its name there → in the upload."""
    harmless: tuple[str, ...] = ()
    """Speaks to wrangler alone."""
    name: str = "binding"
    """Where the binding's own name is."""


def _as_it_is(*names: str) -> dict[str, str]:
    return {name: name for name in names}


KINDS = {
    "kv_namespaces": Kind("kv_namespace", {"id": "namespace_id"}, ("preview_id",)),
    "r2_buckets": Kind(
        "r2_bucket",
        _as_it_is("bucket_name", "jurisdiction"),
        ("preview_bucket_name", "local_dev"),
    ),
    "d1_databases": Kind(
        "d1",
        {"database_id": "id", "database_name": "database_name", "jurisdiction": "jurisdiction"},
        ("preview_database_id", "migrations_dir", "migrations_table", "migrations_pattern"),
    ),
    "durable_objects.bindings": Kind(
        "durable_object_namespace",
        _as_it_is("class_name", "script_name", "environment"),
        name="name",
    ),
    "queues.producers": Kind("queue", {"queue": "queue_name", "delivery_delay": "delivery_delay"}),
    "services": Kind("service", _as_it_is("service", "environment", "entrypoint", "props")),
    "hyperdrive": Kind("hyperdrive", _as_it_is("id"), ("localConnectionString",)),
    "analytics_engine_datasets": Kind("analytics_engine", _as_it_is("dataset")),
    "ratelimits": Kind("ratelimit", _as_it_is("namespace_id", "simple"), name="name"),
    "secrets_store_secrets": Kind("secrets_store_secret", _as_it_is("store_id", "secret_name")),
    "worker_loaders": Kind("worker_loader"),
    "workflows": Kind(
        "workflow",
        {"name": "workflow_name", "class_name": "class_name", "script_name": "script_name"},
        ("limits", "concurrency", "schedules", "default_retention"),
    ),
    "dispatch_namespaces": Kind("dispatch_namespace", _as_it_is("namespace", "outbound")),
    "vectorize": Kind("vectorize", _as_it_is("index_name")),
    "mtls_certificates": Kind("mtls_certificate", _as_it_is("certificate_id")),
    "pipelines": Kind("pipelines", _as_it_is("pipeline", "stream")),
    "send_email": Kind(
        "send_email",
        _as_it_is(
            "destination_address", "allowed_destination_addresses", "allowed_sender_addresses"
        ),
        name="name",
    ),
    "logfwdr.bindings": Kind("logfwdr", _as_it_is("destination"), name="name"),
    "ai": Kind("ai", _as_it_is("staging")),
    "browser": Kind("browser"),
    "images": Kind("images"),
    "media": Kind("media"),
    "stream": Kind("stream"),
    "version_metadata": Kind("version_metadata"),
}
KEYS = frozenset({key.partition(".")[0] for key in KINDS} | {"migrations", "exports", "triggers"})
"""Keys of a configuration that are read here."""
INHERITED = frozenset({"migrations", "exports", "triggers"})
"""Those that a named environment takes over from the top, as with wrangler."""
INSIDE = {
    "durable_objects": ("bindings",),
    "logfwdr": ("bindings",),
    "queues": ("producers", "consumers"),
    "triggers": ("crons",),
}
"""What a key that is no list may hold."""
IDS = {
    "kv_namespace": "namespace_id",
    "r2_bucket": "bucket_name",
    "d1": "id",
    "queue": "queue_name",
    "dispatch_namespace": "namespace",
}
"""What a binding has to say of what it leads to, for those that are made when they are not there."""
NAMES = {**IDS, "d1": "database_name"}
"""By what it is found and made; a KV namespace has no name in a configuration."""
CONSUMER = {
    "max_batch_size": "batch_size",
    "max_retries": "max_retries",
    "max_batch_timeout": "max_wait_time_ms",
    "max_concurrency": "max_concurrency",
    "retry_delay": "retry_delay",
    "visibility_timeout_ms": "visibility_timeout_ms",
}
CONSUMER_TYPES = ("worker", "http_pull")


@dataclass(frozen=True)
class Wanted:
    """A binding to what may not be there yet."""

    type: str
    binding: str
    name: str | None = None
    """What it leads to is called so; None: the platform may choose."""
    rest: Fields = field(default_factory=dict)

    def inherited(self) -> Fields:
        """Return the binding that the newest version has."""
        return {"type": "inherit", "name": self.binding}

    def led_to(self, found: str) -> Fields:
        """Return the binding to what was found or made."""
        return {"type": self.type, "name": self.binding, IDS[self.type]: found, **self.rest}


@dataclass(frozen=True)
class Consumer:
    """That a queue's messages go to this worker, or to whoever pulls."""

    queue: str
    fields: Fields
    """As the API takes it, without the worker's name."""


@dataclass(frozen=True)
class Attached:
    """All that a configuration attaches to a worker's code."""

    bindings: tuple[Fields, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    migrations: tuple[Fields, ...] = ()
    exports: Fields = field(default_factory=dict)
    consumers: tuple[Consumer, ...] = ()
    crons: tuple[str, ...] | None = None
    """None: those that there are stay."""
    workflows: tuple[Fields, ...] = ()
    """Name → what its own address is told: those whose class is in this worker."""


def attached(document: Mapping[str, Any], file: str) -> Attached:
    """Read one environment's part of a configuration. Raises ProjectError."""
    for key, may_hold in INSIDE.items():
        for name, value in _object(document, key, file).items():
            if name not in may_hold and value not in ([], {}, None):
                raise ProjectError(
                    f"{file}: {key}.{name} is not offered by `kythera deploy`.",
                    remedy=f"Of {key} there is {', '.join(may_hold)}. Remove the rest of it.",
                )
    entries = list(_entries(document, file))
    crons = _object(document, "triggers", file).get("crons")
    return Attached(
        bindings=tuple(each for each in entries if isinstance(each, dict)),
        wanted=tuple(each for each in entries if isinstance(each, Wanted)),
        migrations=tuple(_list(document, "migrations", file)),
        exports=_object(document, "exports", file),
        consumers=tuple(_consumers(document, file)),
        crons=None if crons is None else tuple(_texts(crons, "triggers.crons", file)),
        workflows=tuple(_workflows(document, file)),
    )


def _entries(document: Mapping[str, Any], file: str) -> Iterator[Fields | Wanted]:
    for key, kind in KINDS.items():
        outer, _, inner = key.partition(".")
        found = _object(document, outer, file).get(inner) if inner else document.get(outer)
        for entry in [found] if isinstance(found, dict) and found else found or ():
            yield _entry(key, kind, entry, file)


def _entry(key: str, kind: Kind, entry: Any, file: str) -> Fields | Wanted:
    if not isinstance(entry, dict) or not isinstance(entry.get(kind.name), str):
        raise ProjectError(f"{file}: each of {key} needs a `{kind.name}`.", remedy="Name it.")
    own = {kind.name, "remote", *kind.harmless}
    unknown = sorted(entry.keys() - own - kind.fields.keys())
    if unknown:
        raise ProjectError(
            f"{file}: {key} has {unknown[0]}, which nobody here reads.",
            remedy=f"Known are {', '.join(sorted(own | kind.fields.keys()))}.",
        )
    fields = {kind.fields[name]: entry[name] for name in entry if name in kind.fields}
    if kind.type == "dispatch_namespace" and fields.get("outbound"):
        fields["outbound"] = _outbound(fields["outbound"])
    if kind.type not in IDS or fields.get("id") or fields.get("namespace_id"):
        fields.pop("database_name", None)
        return {"type": kind.type, "name": entry[kind.name], **fields}
    name = fields.pop(NAMES[kind.type], None)
    rest = {field: value for field, value in fields.items() if field != IDS[kind.type]}
    return Wanted(kind.type, entry[kind.name], name or None, rest)


def _outbound(given: Fields) -> Fields:
    """Return the outbound worker of a dispatch namespace as the upload has it."""
    worker = {name: given[name] for name in ("service", "environment") if name in given}
    parameters = [{"name": name} for name in given.get("parameters") or ()]
    return {"worker": worker, **({"params": parameters} if parameters else {})}


def _consumers(document: Mapping[str, Any], file: str) -> Iterator[Consumer]:
    for entry in _object(document, "queues", file).get("consumers") or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("queue"), str):
            raise ProjectError(
                f"{file}: each of queues.consumers needs a `queue`.", remedy="Name it."
            )
        unknown = sorted(entry.keys() - CONSUMER.keys() - {"queue", "type", "dead_letter_queue"})
        kind = entry.get("type", "worker")
        if unknown or kind not in CONSUMER_TYPES:
            what = unknown[0] if unknown else f"type {kind!r}"
            raise ProjectError(
                f"{file}: queues.consumers has {what}, which nobody here reads.",
                remedy=f"Known are queue, type ({', '.join(CONSUMER_TYPES)}), dead_letter_queue, "
                f"{', '.join(CONSUMER)}.",
            )
        settings = {CONSUMER[name]: entry[name] for name in CONSUMER if name in entry}
        if "max_wait_time_ms" in settings:
            settings["max_wait_time_ms"] = round(settings["max_wait_time_ms"] * 1000)
        fields = {"type": kind, "settings": settings}
        if entry.get("dead_letter_queue"):
            fields["dead_letter_queue"] = entry["dead_letter_queue"]
        yield Consumer(entry["queue"], fields)


def _workflows(document: Mapping[str, Any], file: str) -> Iterator[Fields]:
    own_name = document.get("name")
    for entry in _list(document, "workflows", file):
        if entry.get("script_name") not in (None, own_name):
            continue
        if not isinstance(entry.get("name"), str):
            raise ProjectError(f"{file}: each of workflows needs a `name`.", remedy="Name it.")
        more = {key: entry[key] for key in KINDS["workflows"].harmless if entry.get(key)}
        if "schedules" in more:
            crons = more["schedules"]
            more["schedules"] = [
                {"cron": cron} for cron in (crons if isinstance(crons, list) else [crons])
            ]
        yield {"name": entry["name"], "class_name": entry.get("class_name"), **more}


def steps_after(migrations: tuple[Fields, ...], tag: str | None) -> Fields | None:
    """Return the migrations that a worker whose last one is `tag` has yet to see, as the upload has
    them; None: there are none. Raises ProjectError for a tag that is not in the list."""
    if not migrations:
        return None
    tags = [each.get("tag") for each in migrations]
    if tag and tag not in tags:
        raise ProjectError(
            f"the deployed Worker's last migration is {tag!r}, which is not in `migrations`.",
            remedy="Put it back: what is deployed came from a configuration that has it.",
        )
    left = migrations[tags.index(tag) + 1 :] if tag else migrations
    if not left:
        return None
    steps = [{key: value for key, value in each.items() if key != "tag"} for each in left]
    return {**({"old_tag": tag} if tag else {}), "new_tag": tags[-1], "steps": steps}


def _object(document: Mapping[str, Any], key: str, file: str) -> Fields:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise ProjectError(f"{file}: {key} has to be an object.", remedy="Mend it.")
    return value


def _list(document: Mapping[str, Any], key: str, file: str) -> list[Fields]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ProjectError(f"{file}: {key} has to be a list of objects.", remedy="Mend it.")
    return value


def _texts(value: Any, key: str, file: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ProjectError(f"{file}: {key} has to be a list of texts.", remedy="Mend it.")
    return value
