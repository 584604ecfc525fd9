"""The replicated facts: the only way parts of Kythera speak to each other across processes and
machines.

A record has a key (`kind.account[.worker[.id]]`, which is also the tail of its subject in the
log), a value (this module's frozen structs, as JSON with a schema version) or a tombstone. Keys
hold no wildcard and no blank. Unknown fields are ignored on reading, so that a newer writer does
not stop an older reader; a newer *schema* raises `UnknownSchema`, and the reader keeps the last
state it understood.
"""

from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Struct, field

SCHEMA = 1


class UnknownSchema(Exception):
    """A record was written by a newer Kythera; keep the last state that was understood."""


class Record(Struct, frozen=True, kw_only=True):
    """What all records share."""

    kind: ClassVar[str]
    schema: int = SCHEMA

    def key(self) -> str:
        """Return where this record lives in the log and in each machine's copy."""
        raise AssertionError("each kind has its own key")


class Account(Record, frozen=True, kw_only=True):
    """Who owns workers: the trust boundary. `id` is 32 hexadecimal digits."""

    kind: ClassVar[str] = "account"
    id: str
    name: str
    subdomain: str

    def key(self) -> str:
        """`account.<id>`."""
        return f"account.{self.id}"


class Worker(Record, frozen=True, kw_only=True):
    """A named program of an account: what stays when versions come and go."""

    kind: ClassVar[str] = "worker"
    account: str
    name: str
    tag: str
    created_on: str
    modified_on: str
    versions_made: int = 0
    """Number of the newest version; numbers are never used twice."""
    deployments_made: int = 0
    held: tuple[str, ...] = ()
    """Ids of the versions that deployment number `deployments_made` names: written before it, so
    that no machine lets go of them in between."""
    let_go: tuple[str, ...] = ()
    """Ids of versions that are being let go of: written before they end, so that no machine
    deploys them in between."""
    hostname_enabled: bool = True
    """Whether `<worker>.<domain>` serves it (wrangler's `workers_dev`)."""
    previews_enabled: bool = False
    migration_tag: str | None = None
    tags: tuple[str, ...] = ()
    logpush: bool = False
    observability: dict[str, Any] = field(default_factory=dict)
    tail_consumers: tuple[dict[str, Any], ...] = ()

    def key(self) -> str:
        """`worker.<account>.<name>`."""
        return f"worker.{self.account}.{self.name}"


class Module(Struct, frozen=True, kw_only=True):
    """One file of a version. `type` is one of MODULE_TYPES; the bytes are the blob `digest`."""

    name: str
    type: str
    digest: str
    size: int


MODULE_TYPES = ("esm", "service_worker", "cjs", "text", "data", "wasm", "json", "source_map")


class Binding(Struct, frozen=True, kw_only=True):
    """A capability of a version. `fields` holds the type's own keys; a secret's text is never
    here but as `{"sealed": "<base64 of the AES-GCM envelope>"}`, with a `mark` that
    stays when it is sealed anew."""

    name: str
    type: str
    fields: dict[str, Any] = field(default_factory=dict)


class Asset(Struct, frozen=True, kw_only=True):
    """One static file: its path ("/a/b.css"), blob digest, size in bytes, content type."""

    path: str
    digest: str
    size: int
    content_type: str = ""


class Assets(Struct, frozen=True, kw_only=True):
    """A version's static assets: `manifest` is the digest of a blob, a JSON list of `Asset`s.

    `config` has wrangler's keys: html_handling, not_found_handling, run_worker_first, base_path,
    _headers, _redirects (the last two as text)."""

    manifest: str
    config: dict[str, Any] = field(default_factory=dict)


class Confinement(Struct, frozen=True, kw_only=True):
    """What holds a version's cells, where wrangler has no key of its own for it.

    0 means: as the platform has it. Written in wrangler's configuration as
    `{"unsafe": {"metadata": {"kythera": {"memory_mib": 64, "egress": "none"}}}}`."""

    memory_mib: int = 0
    """Of JavaScript's heap; and of what lies beside it (ArrayBuffers, wasm) as much again."""
    egress: Literal["public", "none", "hosts"] = "public"
    """Where outbound `fetch` and `connect` may go; always within what the operator allows."""
    egress_hosts: tuple[str, ...] = ()
    """With `hosts`: names, `*.example.org` for all below one, each with or without `:port`."""
    clocks: Literal["frozen", "running"] = "frozen"
    """`frozen`: no clock advances within one turn of the event loop."""
    outbound_connections: int = 0
    """At the same time."""
    queue_requests: int = 0
    """Waiting at the door of one machine."""


class Version(Record, frozen=True, kw_only=True):
    """Immutable code + bindings + settings of a worker. Never rewritten, only deleted."""

    kind: ClassVar[str] = "version"
    account: str
    worker: str
    id: str
    number: int
    created_on: str
    source: str = "wrangler"
    author_email: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    main_module: str | None = None
    """Name of the main ES module; None for service-worker format and for assets alone."""
    body_part: str | None = None
    """Name of the script in service-worker format."""
    modules: tuple[Module, ...] = ()
    bindings: tuple[Binding, ...] = ()
    compatibility_date: str = "2026-01-01"
    compatibility_flags: tuple[str, ...] = ()
    usage_model: str = "standard"
    limits: dict[str, Any] = field(default_factory=dict)
    confinement: Confinement = Confinement()
    placement: dict[str, Any] = field(default_factory=dict)
    assets: Assets | None = None
    etag: str = ""
    """SHA-256 over code, bindings' names and settings: equal for equal uploads."""
    handlers: tuple[str, ...] = ()
    named_handlers: tuple[str, ...] = ()
    startup_time_ms: int = 0
    objects: dict[str, str] = field(default_factory=dict)
    """The worker's classes of Durable Objects when this was uploaded: name → id of the resource."""

    def key(self) -> str:
        """`version.<account>.<worker>.<id>`."""
        return f"version.{self.account}.{self.worker}.{self.id}"


class Incident(Struct, frozen=True, kw_only=True):
    """A cell was ended, or died, or did not start: what, when, and whom it cost."""

    reason: str
    """One of INCIDENTS."""
    version: str
    at: str
    rays: tuple[str, ...] = ()
    """Of requests that got an error page because of it, as far as they are known."""
    detail: str = ""


INCIDENTS = (
    "exceededCpu",
    "exceededMemory",
    "crashed",
    "startFailed",
    "logsDropped",
    "exceededSubrequests",
)
"""What may befall a worker's cells; the first two in the words of Cloudflare's outcomes."""


class Incidents(Record, frozen=True, kw_only=True):
    """What has befallen one worker's cells on one machine since its agent began to count: all of it
    by reason, the last of it in full. Replaced as it grows, so there is one for each."""

    kind: ClassVar[str] = "incidents"
    account: str
    worker: str
    machine: str
    since: str
    counts: dict[str, int] = field(default_factory=dict)
    last: tuple[Incident, ...] = ()

    def key(self) -> str:
        """`incidents.<account>.<worker>.<machine>`."""
        return f"incidents.{self.account}.{self.worker}.{self.machine}"


class Split(Struct, frozen=True, kw_only=True):
    """A share of a worker's traffic; percentages of a deployment add up to 100."""

    version_id: str
    percentage: float


class Deployment(Record, frozen=True, kw_only=True):
    """Which versions of a worker serve. The one with the highest `number` holds."""

    kind: ClassVar[str] = "deployment"
    account: str
    worker: str
    id: str
    number: int
    created_on: str
    source: str = "wrangler"
    strategy: str = "percentage"
    author_email: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    versions: tuple[Split, ...] = ()
    tag: str = ""
    """Of the worker it was made for. One of an earlier worker with this name, written while that
    was being deleted on another machine, never holds. Empty in old records: it counts."""

    def key(self) -> str:
        """`deployment.<account>.<worker>.<id>`."""
        return f"deployment.{self.account}.{self.worker}.{self.id}"


class Route(Struct, frozen=True, kw_only=True):
    """A URL pattern that leads to a worker: `host/path`, `*` at the start of the host (`*.a.b` or
    `*a.b`) and at the end of the path."""

    id: str
    pattern: str
    zone_name: str = ""
    zone_id: str = ""


class Routes(Record, frozen=True, kw_only=True):
    """All routes of one worker (replaced as a whole)."""

    kind: ClassVar[str] = "routes"
    account: str
    worker: str
    routes: tuple[Route, ...] = ()

    def key(self) -> str:
        """`routes.<account>.<worker>`."""
        return f"routes.{self.account}.{self.worker}"


class Domains(Record, frozen=True, kw_only=True):
    """All custom domains (whole hostnames) of one worker (replaced as a whole)."""

    kind: ClassVar[str] = "domains"
    account: str
    worker: str
    hostnames: tuple[str, ...] = ()

    def key(self) -> str:
        """`domains.<account>.<worker>`."""
        return f"domains.{self.account}.{self.worker}"


class Schedule(Struct, frozen=True, kw_only=True):
    """When a worker is called without a visitor: a cron expression, in UTC."""

    cron: str
    created_on: str
    modified_on: str


class Schedules(Record, frozen=True, kw_only=True):
    """All cron triggers of one worker (replaced as a whole)."""

    kind: ClassVar[str] = "schedules"
    account: str
    worker: str
    schedules: tuple[Schedule, ...] = ()

    def key(self) -> str:
        """`schedules.<account>.<worker>`."""
        return f"schedules.{self.account}.{self.worker}"


class CronCall(Struct, frozen=True, kw_only=True):
    """A call of a `scheduled` handler that has begun and has not ended yet."""

    slot: int
    """The time it was due, in Unix seconds."""
    machine: str
    life: str
    """Of that machine's control process: one that starts again has another."""
    until: int
    """Unix seconds: whoever has not ended it by then has died."""
    tries: int = 1


class CronEnd(Struct, frozen=True, kw_only=True):
    """How such a call ended."""

    slot: int
    machine: str
    ended_on: str
    took_ms: int
    outcome: str
    """`ok`, or in Cloudflare's words what went wrong."""
    detail: str = ""


class CronRuns(Record, frozen=True, kw_only=True):
    """What was done about one cron trigger of a worker. Written before a call and after it, over
    what was there: so two machines never make the same call."""

    kind: ClassVar[str] = "cronruns"
    account: str
    worker: str
    id: str
    """Stands for the expression, which no key could hold."""
    cron: str
    slot: int = 0
    """The latest time that was begun with, in Unix seconds."""
    calls: tuple[CronCall, ...] = ()
    last: tuple[CronEnd, ...] = ()
    """Newest first."""
    runs: int = 0
    failed: int = 0
    """How many of `runs` did not end with `ok`."""

    def key(self) -> str:
        """`cronruns.<account>.<worker>.<id>`."""
        return f"cronruns.{self.account}.{self.worker}.{self.id}"


class Resource(Record, frozen=True, kw_only=True):
    """Something that bindings lead to and that outlives versions: a KV namespace, a bucket, a
    database, a queue … Its data are where its store keeps them, never here."""

    kind: ClassVar[str] = "resource"
    account: str
    type: str
    """As the binding's: `kv_namespace`, `r2_bucket`, `d1`, `queue` …"""
    id: str
    """No dot, no blank: the address of the API, and part of the key."""
    name: str
    """What people call it; unlike the id it may change."""
    created_on: str
    fields: dict[str, Any] = field(default_factory=dict)
    """What the type knows beside that."""

    def key(self) -> str:
        """`resource.<account>.<type>.<id>`."""
        return f"resource.{self.account}.{self.type}.{self.id}"


class Tail(Record, frozen=True, kw_only=True):
    """Somebody watches a worker: cells are swapped for observed ones while any of these lives."""

    kind: ClassVar[str] = "tail"
    account: str
    worker: str
    id: str
    created_on: str
    expires_on: str
    filters: tuple[dict[str, Any], ...] = ()
    machine: str = ""
    """Whose API the watcher is connected to (or shall be): there the events go."""
    token: str = ""
    """Id of the API token that it was made with: it ends with that."""

    def key(self) -> str:
        """`tail.<account>.<worker>.<id>`."""
        return f"tail.{self.account}.{self.worker}.{self.id}"


class Machine(Record, frozen=True, kw_only=True):
    """A host of the fleet. What changes each second (load, lag) is asked of it, not recorded."""

    kind: ClassVar[str] = "machine"
    name: str
    site: str = "local"
    region: str = ""
    world: str = ""
    mesh: str = ""
    """`host:port` where the other machines reach it."""
    api: str = ""
    core: bool = False
    """Whether it holds the log (or is to, see Core)."""
    state: str = "active"
    """`active`, or `draining`: it hands its requests to others."""
    labels: dict[str, str] = field(default_factory=dict)
    cores: int = 1
    architecture: str = ""
    kythera: str = ""
    workerd: str = ""
    joined_on: str = ""
    token: str = ""
    """Id of the token it joined with; empty: it founded the fleet."""

    def key(self) -> str:
        """`machine.<name>`."""
        return f"machine.{self.name}"


class Token(Record, frozen=True, kw_only=True):
    """A permission to join, once, until `expires_on`. The secret itself is nowhere but in the
    line that was printed."""

    kind: ClassVar[str] = "token"
    id: str
    secret_digest: str
    created_on: str
    expires_on: str
    used_by: str = ""
    """Name of the machine that used it up; empty: unused."""
    used_key: str = ""
    """Digest of that machine's public key, so that it may ask again when the answer got lost."""

    def key(self) -> str:
        """`token.<id>`."""
        return f"token.{self.id}"


class ApiToken(Record, frozen=True, kw_only=True):
    """Somebody who may call the API, and what for. The text itself is nowhere but where it was
    printed.

    `digest` is the plain SHA-256 of that text. A slow hash is for what people choose and others may
    guess; a text of 256 random bits cannot be tried out, and each call of the API is checked."""

    kind: ClassVar[str] = "apitoken"
    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    """Of `read`, `deploy`, `secrets`, `admin` (`kythera.control.scopes`)."""
    workers: tuple[str, ...] = ()
    """Names of the workers it is for, there or not; empty: all."""
    created_on: str
    created_by: str = ""
    expires_on: str = ""
    """Empty: never."""
    revoked_on: str = ""
    """Empty: it is good."""

    def key(self) -> str:
        """`apitoken.<id>`."""
        return f"apitoken.{self.id}"


class Audit(Record, frozen=True, kw_only=True):
    """One change that came through the API: who, what, when, from where, before and after.

    Each machine has `audit_kept_max` places for what it was asked to do, used in turn: the newest
    takes the place of the oldest, so that nothing grows and nobody has to tidy."""

    kind: ClassVar[str] = "audit"
    machine: str
    """Which machine was asked."""
    place: int
    number: int
    """Counts up on that machine."""
    at: str
    who: str
    """A token's name, `root`, or `machine <name>`."""
    token: str = ""
    """Id of the API token; empty: the one in the state folder, or none."""
    client: str = ""
    """The address that it came from."""
    agent: str = ""
    """What the client calls itself."""
    what: str
    about: str
    worker: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    """What changed, as it was; never a secret's text."""
    after: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    """What there is to doubt: the log did not say whether it was written."""

    def key(self) -> str:
        """`audit.<machine>-<place>`."""
        return f"audit.{self.machine}-{self.place}"


class Heartbeat(Record, frozen=True, kw_only=True):
    """Written each second by one core machine: its age where it arrives is that machine's lag."""

    kind: ClassVar[str] = "heartbeat"
    machine: str
    number: int
    at_ms: int
    """Unix milliseconds by the writer's clock."""

    def key(self) -> str:
        """`heartbeat.fleet`: one for all."""
        return "heartbeat.fleet"


class Core(Record, frozen=True, kw_only=True):
    """Which machines hold the log: one, three or five."""

    kind: ClassVar[str] = "core"
    machines: tuple[str, ...]
    epoch: int = 1
    """Grows when the log moves to other servers (its sequence numbers go on)."""
    wanted: tuple[str, ...] = ()
    """Who shall hold it next; empty: it is not moving."""
    wanted_epoch: int = 0
    """The number of the servers it moves to: never used before, not even by a move given up."""

    def key(self) -> str:
        """`core.log`: one for all."""
        return "core.log"


class Horizon(Record, frozen=True, kw_only=True):
    """Ends of records (tombstones) at or below `seq` are no longer in the log: who has applied
    less must take a snapshot."""

    kind: ClassVar[str] = "horizon"
    seq: int

    def key(self) -> str:
        """`horizon.log`: one for all."""
        return "horizon.log"


class Sealing(Record, frozen=True, kw_only=True):
    """Which key seals secrets, and which one shall: by key ids, never the keys themselves.

    Without this record it is the first key that the machines hold."""

    kind: ClassVar[str] = "sealing"
    active: str
    wanted: str = ""
    """Seals from the moment on when all machines hold it; empty: no other is wanted."""
    wanted_on: str = ""
    retiring: tuple[str, ...] = ()
    """Seal no more, and are kept until nothing is sealed with them. A key that is named nowhere
    here is dropped by whoever holds it."""
    retired: tuple[str, ...] = ()
    """Sealed once, the newest last: never taken again, also where they are not dropped yet."""

    def key(self) -> str:
        """`sealing.fleet`: one for all."""
        return "sealing.fleet"


KINDS: dict[str, type[Record]] = {
    kind.kind: kind
    for kind in (
        *(Account, Worker, Version, Deployment, Routes, Domains, Tail),
        *(Machine, Token, Heartbeat, Core, Horizon, Sealing),
        *(ApiToken, Audit, Incidents, Resource),
        *(Schedules, CronRuns),
    )
}
R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """Return the record as canonical JSON (sorted keys), so that equal records are equal bytes."""
    return msgspec.json.encode(record, order="deterministic")


def decode(kind: type[R], value: bytes) -> R:
    """Read a record back. Raises UnknownSchema for a newer schema, msgspec errors for garbage."""
    record = msgspec.json.decode(value, type=kind)
    if record.schema > SCHEMA:
        raise UnknownSchema(f"{kind.kind} record has schema {record.schema}; this is {SCHEMA}")
    return record


def decode_key(key: str, value: bytes) -> Record:
    """Read a record by the kind its key names. Raises UnknownSchema for an unknown kind."""
    name = key.partition(".")[0]
    if name not in KINDS:
        raise UnknownSchema(f"unknown record kind {name!r}")
    return decode(KINDS[name], value)
