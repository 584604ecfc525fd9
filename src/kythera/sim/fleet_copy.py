"""A copy of the records in memory, with the contract of `distribute.copy.Copy`.

tests/sim holds both to it: in order, whole batches, repeats are no-ops, a snapshot replaces all.
"""

import itertools
from collections.abc import Iterable, Sequence

from kythera.distribute.batch import Stretch, entry_bytes
from kythera.distribute.copy import Changes
from kythera.distribute.log import Entry


class FleetCopy:
    """Newest entry of each key, and up to which sequence that is so."""

    def __init__(self, applied_seq: int = 0) -> None:
        self.rows: dict[str, Entry] = {}
        self._order: dict[int, str] = {}
        """Sequence → key, ascending."""
        self._applied = applied_seq
        self._generation = 0
        self._whole = False

    def applied_seq(self) -> int:
        """Return the newest sequence that has been applied."""
        return self._applied

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record's sequence and value (None: it has ended), or None if it never was."""
        entry = self.rows.get(key)
        return None if entry is None else (entry.seq, entry.value)

    def changes_after(self, seq: int) -> list[Entry]:
        """Return the current entries with a sequence above `seq`, in order, tombstones included."""
        found: list[Entry] = []
        for number in reversed(self._order):
            if number <= seq:
                break
            found.append(self.rows[self._order[number]])
        found.reverse()
        return found

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what a reader has missed that had folded `generation` up to `seq`."""
        anew = self._generation != generation or self._applied < seq
        found = self.changes_after(0 if anew else seq)
        return Changes(self._generation, self._applied, anew, found)

    def batch_after(self, seq: int, bytes_max: int) -> Stretch:
        """Return what follows `seq`, up to about `bytes_max` (one entry at least): for relaying."""
        found: list[Entry] = []
        size = 0
        for entry in self.changes_after(seq):
            size += entry_bytes(entry)
            if found and size > bytes_max:
                return Stretch(found, found[-1].seq, self._applied)
            found.append(entry)
        return Stretch(found, max(seq, self._applied), self._applied)

    def generation(self) -> int:
        """Return how often the records were replaced as a whole."""
        return self._generation

    def is_whole(self) -> bool:
        """Tell whether this copy has once had everything its source had."""
        return self._whole

    def mark_whole(self) -> None:
        """Note for ever that this copy has once had everything."""
        self._whole = True

    def apply(self, entries: Sequence[Entry], to_seq: int = 0) -> list[Entry]:
        """Take a batch in ascending order; what had been applied is skipped. Returns the rest."""
        assert all(a.seq < b.seq for a, b in itertools.pairwise(entries)), "disordered"
        fresh = [entry for entry in entries if entry.seq > self._applied]
        for entry in fresh:
            older = self.rows.get(entry.key)
            if older is not None:
                del self._order[older.seq]
            self.rows[entry.key] = entry
            self._order[entry.seq] = entry.key
            self._applied = entry.seq
        self._applied = max(self._applied, to_seq)
        return fresh

    def replace(self, entries: Iterable[Entry], applied_seq: int) -> None:
        """Forget everything and take a snapshot."""
        self.rows = {entry.key: entry for entry in entries}
        self._order = {entry.seq: entry.key for entry in sorted(self.rows.values())}
        self._applied = applied_seq
        self._generation += 1

    def prune(self, horizon: int) -> int:
        """Forget the tombstones at or below `horizon`; return how many."""
        gone = [e for e in self.rows.values() if e.value is None and e.seq <= horizon]
        for entry in gone:
            del self.rows[entry.key]
            del self._order[entry.seq]
        return len(gone)

    def forget(self, seq: int) -> None:
        """Forget one entry, as a log does whose message is deleted."""
        key = self._order.pop(seq, None)
        if key is not None:
            del self.rows[key]

    def twin(self) -> "FleetCopy":
        """Return a copy of this copy: what a backup would hold."""
        other = FleetCopy(self._applied)
        other.rows = dict(self.rows)
        other._order = dict(self._order)
        other._generation, other._whole = self._generation, self._whole
        return other
