"""What a machine tells of itself, as other machines read it.

The agent writes it (`kythera.node.status`); machines of other versions may say more or less: fields
that are missing have defaults, fields nobody knows are passed over, a field of a wrong type makes the
whole answer unreadable.
"""

from msgspec import Struct, field

from kythera.model.records import Incidents


class Filling(Struct, frozen=True, kw_only=True):
    """How far a copy that is being made is: sequence numbers."""

    applied: int = 0
    target: int = 0


class Memory(Struct, frozen=True, kw_only=True):
    """A machine's memory, in bytes."""

    used_bytes: int = 0
    total_bytes: int = 0


class WorkerEgress(Struct, frozen=True, kw_only=True):
    """What one worker's cells have sent to the outside, on one machine."""

    account: str = ""
    worker: str = ""
    requests: int = 0
    open: int = 0
    waiting: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """What was not allowed, by reason."""
    failed: dict[str, int] = field(default_factory=dict)
    """What was allowed and did not work, by reason."""


class Egress(Struct, frozen=True, kw_only=True):
    """A machine's egress cell."""

    state: str = ""
    """`up`, `down` or `silent`."""
    open: int = 0
    forged: int = 0
    """Requests that did not come from a cell of this machine."""
    restarts: int = 0
    workers: list[WorkerEgress] = field(default_factory=list)


class WorkerUse(Struct, frozen=True, kw_only=True):
    """What one worker's cells asked of one store, on one machine."""

    account: str = ""
    worker: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class StoreFacts(Struct, frozen=True, kw_only=True):
    """One store of a machine."""

    state: str = ""
    """`up`, `down` or `silent`."""
    restarts: int = 0
    workers: list[WorkerUse] = field(default_factory=list)


class MachineFacts(Struct, frozen=True, kw_only=True):
    """One machine, as its own agent sees it."""

    name: str = ""
    site: str = ""
    region: str = ""
    world: str = ""
    state: str = "active"
    """`active`, `draining`, `filling` (its copy is not whole yet) or `removed`."""
    core: bool = False
    source: str = ""
    """Where its records come from: `core`, or the name of its site's relay."""
    relay: bool = False
    """Whether others follow it."""
    lag_ms: int | float | None = None
    """Age of the newest heartbeat it has applied; None before the first."""
    clock_offset_ms: int | float | None = None
    """Its clock minus the clock of who writes the heartbeat."""
    applied_seq: int = 0
    filling: Filling | None = None
    cpu_share: float = 0.0
    cores: int = 1
    cells: int = 0
    memory: Memory = field(default_factory=Memory)
    kythera: str = ""
    workerd: str = ""
    workerd_mark: str = ""
    workerd_wanted: str = ""
    workerd_change: str = ""
    """How a change to another workerd goes; empty: there is none."""
    log: str = ""
    front: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    """Requests and connections that its front door refused or ended, by reason."""
    mesh: str = ""
    egress: Egress = field(default_factory=Egress)
    stores: dict[str, StoreFacts] = field(default_factory=dict)
    unknown_records: dict[str, str] = field(default_factory=dict)
    tail_events_lost: dict[str, int] = field(default_factory=dict)
    """Events that did not get to a watcher on another machine, by reason."""
    calls_refused: dict[str, int] = field(default_factory=dict)
    """Calls of the API that its tokens did not allow, by reason, since its API began."""
    audit_records: dict[str, int] = field(default_factory=dict)
    """Audit records that were `late`, `written_late` or `lost` (but for the journal)."""


class CellFacts(Struct, frozen=True, kw_only=True):
    """One cell, as its machine's agent sees it."""

    machine: str = ""
    worker: str
    version: str
    state: str
    pids: list[int] = field(default_factory=list)
    private_bytes: int = 0
    cpu_seconds: float = 0.0
    requests: int = 0
    account: str = ""
    generation: int = 0
    observed: bool = False
    server: str = ""
    current: int = 0
    crashes: int = 0
    exceeded_cpu: int = 0
    exceeded_memory: int = 0
    starts_failed: int = 0
    workerd: str = ""
    """Version of what its processes run."""


class ObjectCellFacts(Struct, frozen=True, kw_only=True):
    """The process of one worker's Durable Objects and Workflows, as its machine's agent sees it."""

    machine: str = ""
    account: str = ""
    worker: str
    version: str = ""
    state: str = ""
    """`up`, `starting`, `stopping` or `failing`."""
    classes: list[str] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    private_bytes: int = 0
    cpu_seconds: float = 0.0
    since: str = ""
    """When its process was started; empty: it has none."""
    restarts: int = 0
    """Since its machine's agent began, whatever the reason."""
    crashes: int = 0
    """Those that nobody had ordered."""
    observed: bool = False
    workerd: str = ""
    """Version of what it runs."""


class StatusAnswer(Struct, frozen=True, kw_only=True):
    """The whole document."""

    machines: list[MachineFacts] = field(default_factory=list)
    cells: list[CellFacts] = field(default_factory=list)
    objects: list[ObjectCellFacts] = field(default_factory=list)
    incidents: list[Incidents] = field(default_factory=list)
