"""A cell as the deciding code sees it, what may happen to it, and what may be ordered for it.

A cell is one version on one listening socket of its own (a *generation*): idle with no process,
or served by one process or several that share the socket. Everything but adding a process is a
swap to a new generation, because a new socket is a new server to HAProxy, and so no kept-alive
connection is ever cut under a request. The socket's name carries all that is needed to know a
cell again after the agent was restarted.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

WorkerKey = tuple[str, str]
"""(account id, worker name)"""

PROCESS_MARK = "+"
"""Between a socket's name and the number of a process on it."""
WORKERD_MARK = "@"
"""Between that number and the mark of the workerd it runs."""
ProcessState = Literal["starting", "ready", "stopping"]
Limited = Literal["cpu", "memory"]
"""What a process was ended for using too much of."""
CellState = Literal["idle", "starting", "ready", "draining", "failed"]


@dataclass(slots=True)
class Process:
    """One workerd process of a cell. Times are monotonic seconds."""

    name: str
    started_at: float
    pid: int = 0
    state: ProcessState = "starting"
    ready_at: float = 0.0
    stop_at: float = 0.0
    killed: bool = False
    exceeded: Limited | None = None
    """It ended for this: no crash, and nothing that backs off."""
    cpu_seconds: float = 0.0
    measured_at: float | None = None
    cpu_share: float = 0.0
    workerd: str = ""
    """Which of this machine's workerds it runs (`WORKERD_MARK` in its name)."""


@dataclass(frozen=True, slots=True)
class CellName:
    """What a cell is called: `cell/<account>/<worker>/<version>/<generation>[o]`."""

    account: str
    worker: str
    version_id: str
    generation: int
    observed: bool

    @property
    def socket(self) -> str:
        """The keeper's name of the listening socket."""
        mark = "o" if self.observed else ""
        generation = f"{self.generation}{mark}"
        return f"cell/{self.account}/{self.worker}/{self.version_id}/{generation}"

    @property
    def server(self) -> str:
        """HAProxy's name, and the stem of the socket's file: short, and unique on this machine."""
        return "c" + hashlib.sha256(self.socket.encode()).hexdigest()[:12]

    @property
    def worker_key(self) -> WorkerKey:
        """Whose cell this is."""
        return (self.account, self.worker)

    @classmethod
    def parse(cls, socket: str) -> "CellName | None":
        """Read a socket's or process's name back; None when it is not a cell's."""
        parts = socket.partition(PROCESS_MARK)[0].split("/")
        if len(parts) != 5 or parts[0] != "cell":
            return None
        _, account, worker, version_id, generation = parts
        number = generation.removesuffix("o")
        if not number.isdigit():
            return None
        return cls(account, worker, version_id, int(number), generation.endswith("o"))


@dataclass(slots=True)
class Cell:
    """One generation of one version: its socket, its processes, and what is remembered of it."""

    name: CellName
    path: str
    processes_wanted: int = 1
    opened: bool = False
    watched: bool = False
    waiting: bool = False
    """A connection was seen waiting and nothing has been started for it yet."""
    refusing: bool = False
    """Those who wait are being answered 503 just now."""
    processes: dict[str, Process] = field(default_factory=dict)
    processes_made: int = 0
    last_used: float = 0.0
    requests: int = 0
    current: int = 0
    requests_past: int = 0
    """Served by earlier generations of the same version."""
    cpu_past: float = 0.0
    crashes: int = 0
    crashes_all: int = 0
    exceeded: Counter[Limited] = field(default_factory=Counter)
    """Processes that ended because they used too much of something."""
    starts_failed: int = 0
    retry_at: float = 0.0
    retired_at: float | None = None
    closing: bool = False
    stale: Literal["", "age", "workerd", "secret"] = ""
    """Another generation shall take over, for this reason (`run/renewal.py`)."""
    outdated: bool = False
    """What it was given when it started has changed since."""
    given_up: bool = False
    """It was to take over from an older generation, and did not start."""
    renew_after: float = 0.0
    """It was tried, and what came did not start: it is left alone until then."""
    outgrown: bool = False
    """Another generation, with fewer processes, shall take over."""
    saturated_since: float | None = None
    quiet_since: float | None = None

    @property
    def replaced(self) -> bool:
        """Whether another generation of the same version shall take over."""
        return self.outgrown or bool(self.stale)

    def live(self) -> list[Process]:
        """Processes that serve or are about to."""
        return [p for p in self.processes.values() if p.state != "stopping"]

    def ready(self) -> int:
        """How many processes accept connections."""
        return sum(p.state == "ready" for p in self.processes.values())

    def state(self, starts_failed_max: int) -> CellState:
        """The word an operator sees."""
        if self.retired_at is not None:
            return "draining"
        if self.ready():
            return "ready"
        if self.live():
            return "starting"
        return "failed" if self.starts_failed >= starts_failed_max else "idle"


@dataclass(frozen=True, slots=True)
class Want:
    """What the records ask of one version of a worker."""

    percentage: float
    observed: bool = False


# Orders: what the agent shall do. Each is safe to repeat.


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Let the keeper listen on the cell's path."""

    cell: CellName
    path: str


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Let the keeper close and unlink the cell's socket; the cell is forgotten."""

    cell: CellName


@dataclass(frozen=True, slots=True)
class Watch:
    """Say once when a connection waits on this socket."""

    cell: CellName


@dataclass(frozen=True, slots=True)
class Unwatch:
    """A process accepts now: stop watching."""

    cell: CellName


@dataclass(frozen=True, slots=True)
class Start:
    """Start one workerd process on the cell's socket."""

    cell: CellName
    process: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM: finish what is open, accept nothing new."""

    process: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL: a deadline passed."""

    process: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer all waiting connections with 503 and Retry-After: the cell cannot start."""

    cell: CellName


Order = OpenSocket | CloseSocket | Watch | Unwatch | Start | Terminate | Kill | Refuse
