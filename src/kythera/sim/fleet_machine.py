"""One machine of a simulated fleet: what its disk keeps, what dies with its processes.

A machine that hangs keeps its connections: what arrives waits, and all of it happens at once when
it goes on. One that crashes loses what was under way. Its clock may be hours off.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from kythera.model.catalog import Catalog, Name
from kythera.model.membership import Membership
from kythera.model.records import Machine
from kythera.sim.fleet_copy import FleetCopy
from kythera.sim.machine import Virtual

EPOCH_S = 1_790_000_000.0
"""Unix time at which all worlds begin."""


class Condition(Enum):
    """Whether a machine's processes run."""

    UP = "up"
    HUNG = "hung"
    DOWN = "down"


@dataclass
class Host:
    """A machine. `copy` and `blobs` are on its disk; the rest its processes make again."""

    record: Machine
    time: Virtual
    membership: Membership
    copy: FleetCopy = field(default_factory=FleetCopy)
    begun: FleetCopy = field(default_factory=FleetCopy)
    """A snapshot that is being taken."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    used_s: dict[str, float] = field(default_factory=dict)
    """When each blob was last used, by this machine's clock."""
    condition: Condition = Condition.UP
    life: int = 0
    """Counts starts; what an earlier one had under way is void."""
    backup: FleetCopy | None = None
    """What the copy was some time ago: the disk may come back as it was then."""
    clock_off_s: float = 0.0
    removed: bool = False
    """The operator has put it out of the fleet; it does not know."""
    ends: list[Callable[[], None]] = field(default_factory=list)
    """What stops this life's tasks."""
    busy: bool = False
    broken: set[Name] = field(default_factory=set)
    """Workers whose cell cannot start here now."""
    failing: set[Name] = field(default_factory=set)
    """Those that were seen not to start."""

    def __post_init__(self) -> None:
        """Begin with nothing but the disk."""
        self._waiting: list[Callable[[], None]] = []
        self._catalog = Catalog()
        self._folded = -1
        self._hung_at = 0.0

    @property
    def name(self) -> str:
        """Return the machine's name."""
        return self.record.name

    @property
    def site(self) -> str:
        """Return the machine's site."""
        return self.record.site

    @property
    def up(self) -> bool:
        """Tell whether its processes run and answer."""
        return self.condition is Condition.UP

    def now(self) -> float:
        """Return Unix time by this machine's clock, which may be hours off."""
        return EPOCH_S + self.time.now + self.clock_off_s

    def monotonic(self) -> float:
        """Return the time by a clock that no calendar moves."""
        return self.time.now

    def catalog(self) -> Catalog:
        """Return what this machine's copy says."""
        applied = self.copy.applied_seq()
        if applied != self._folded:
            if self._folded < 0:
                self._catalog = Catalog()
            for entry in self.copy.changes_after(max(self._folded, 0)):
                self._catalog.apply(entry.key, entry.value)
            self._folded = applied
        return self._catalog

    def unfold(self) -> None:
        """Forget what was read from the copy: it has been replaced."""
        self._folded = -1

    # -- life --------------------------------------------------------------------------------------

    def run(self, act: Callable[[], None]) -> None:
        """Let something happen here: now, when it goes on again, or never."""
        if self.condition is Condition.UP:
            act()
        elif self.condition is Condition.HUNG:
            self._waiting.append(act)

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do `act` in this life when the time has passed."""
        life = self.life

        def unless_dead() -> None:
            if self.life == life:
                act()

        self.time.after(delay_s, lambda: self.run(unless_dead))

    def crash(self) -> None:
        """Lose everything but the disk."""
        self.life += 1
        self.condition = Condition.DOWN
        self._waiting.clear()
        self.end_tasks()
        self.failing.clear()
        self.unfold()

    def end_tasks(self) -> None:
        """Stop all that runs here."""
        ends, self.ends = self.ends, []
        for end in ends:
            end()

    def start(self) -> None:
        """Come back with what the disk holds."""
        self.condition = Condition.UP

    def hang(self) -> None:
        """Stand still, connections open."""
        if self.condition is Condition.UP:
            self.condition = Condition.HUNG
            self._hung_at = self.time.now

    def hung_s(self) -> float:
        """Return for how long it has stood still."""
        return self.time.now - self._hung_at if self.condition is Condition.HUNG else 0.0

    def go_on(self) -> None:
        """Do all that was waiting."""
        if self.condition is Condition.HUNG:
            self.condition = Condition.UP
            waiting, self._waiting = self._waiting, []
            for act in waiting:
                self.run(act)
