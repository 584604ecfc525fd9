"""What must hold in a simulated fleet: at every step, and after everything has healed.

The log's whole history is the truth. A copy at sequence N holds, for each key, its newest entry at
or below N; only where the log has a newer one still may it hold an older one or none, because a
compacted log no longer tells what was between.
"""

from dataclasses import dataclass, field

from kythera.distribute.log import Entry
from kythera.model.catalog import Catalog
from kythera.sim.fleet_copy import FleetCopy
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_log import CORE_KEY
from kythera.sim.fleet_machine import Host


@dataclass
class CopyChecks:
    """Watches each copy as it grows."""

    fleet: Fleet
    seen: dict[str, int] = field(default_factory=dict)
    """Machine → the sequence its copy had when it was last looked at."""

    def applied(self, host: Host, fresh: list[Entry]) -> None:
        """A batch has just been applied: look at what it touched."""
        before = self.seen.get(host.name, 0)
        now = host.copy.applied_seq()
        history = self.fleet.log.history
        if now < before:
            self.fleet.violation(f"{host.name}'s copy went back from {before} to {now}")
        if now > len(history):
            self.fleet.violation(f"{host.name} has applied {now}; the log ends at {len(history)}")
        for entry in fresh:
            if history[entry.seq - 1] != entry:
                self.fleet.violation(f"{host.name} applied {entry.seq}, which was never written")
        for entry in history[before:now]:
            self._check_key(host.copy, host.name, entry.key, now)
        self.seen[host.name] = now

    def replaced(self, host: Host, *, set_back: bool = False) -> None:
        """The copy was swapped for a snapshot, or (`set_back`) its disk for an older one."""
        before, now = self.seen.get(host.name, 0), host.copy.applied_seq()
        if now < before and not set_back:
            self.fleet.violation(
                f"{host.name} took a snapshot at {now} although it was at {before}"
            )
        self.seen[host.name] = now
        self.whole(host)

    def whole(self, host: Host) -> None:
        """Hold every key of a copy against the truth."""
        applied = host.copy.applied_seq()
        for key in self.fleet.log.every_key():
            self._check_key(host.copy, host.name, key, applied)
        for key in host.copy.rows:
            if self.fleet.log.newest(key) is None:
                self.fleet.violation(f"{host.name} holds {key}, which was never written")

    def _check_key(self, copy: FleetCopy, name: str, key: str, applied: int) -> None:
        truth, newer = self.fleet.log.newest_at(key, applied)
        held = copy.rows.get(key)
        if held == truth:
            return
        if truth is None:
            self.fleet.violation(f"{name} at {applied} holds {key} from the future")
        if held is not None and held.seq > truth.seq:
            self.fleet.violation(f"{name} at {applied} holds {key} of {held.seq}")
        if truth.value is None and (held is None or held.value is None):
            return
        if truth.value is None and not newer:
            self.fleet.violation(f"{name} at {applied} shows {key}, which ended at {truth.seq}")
        if not newer:
            self.fleet.violation(f"{name} at {applied} lacks {key} of {truth.seq}: a gap")


@dataclass
class WriteChecks:
    """Watches what was promised to writers."""

    fleet: Fleet
    deployed: dict[str, float] = field(default_factory=dict)
    """Key of an acknowledged deployment → when its call began."""

    def acknowledge(self, key: str, seq: int, value: bytes | None) -> None:
        """The log has told a writer that its record is safe. (A wish to move the log may have been
        fulfilled by then.)"""
        history = self.fleet.log.history
        known = history[seq - 1] if seq <= len(history) else None
        fulfilled = key == CORE_KEY and known is not None and known.key == key
        if known != Entry(seq, key, value) and not fulfilled:
            self.fleet.violation(f"{key} was acknowledged as {seq}, which is another entry")

    def newest_serve(self) -> None:
        """What holds for a worker is no older than any deployment that was acknowledged for it."""
        log = self.fleet.log
        catalog = Catalog()
        for key in log.every_key():
            newest = log.newest(key)
            if newest is not None:
                catalog.apply(key, newest.value)
        for key, began in self.deployed.items():
            _, account, worker, _ = key.split(".")
            holds = catalog.deployed(account, worker)
            if key in catalog.records and holds is not None and holds.key() != key:
                written = log.given_at[log.first_seq(holds.key()) - 1]
                if written < began:
                    self.fleet.violation(f"{holds.key()} of {written:.3f} s holds instead of {key}")

    def once(self) -> None:
        """What somebody wanted written once is there once."""
        for call, seqs in self.fleet.log.calls.items():
            if len(seqs) > 1:
                self.fleet.violation(f"{call} was written {len(seqs)} times: {seqs}")
