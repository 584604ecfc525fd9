"""A copy's changes, folded into a catalogue that others hold.

Promises: after `take` the catalogue shows what the copy shows, also when the copy's records were
replaced as a whole: what is no longer there ends in the catalogue too. Of a record that a newer
Kythera wrote it shows the last state that can be read here, also in a reader that has just begun.
"""

from typing import Protocol

import msgspec

from kythera.distribute.copy import Changes
from kythera.model.catalog import Catalog
from kythera.model.records import UnknownSchema, decode_key


def readable(key: str, value: bytes) -> bool:
    """Tell whether this Kythera understands a record (`copy.Readable`)."""
    try:
        decode_key(key, value)
    except (UnknownSchema, msgspec.MsgspecError):
        return False
    return True


class Changing(Protocol):
    """A copy to fold (`kythera.distribute.copy.Copy`)."""

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what a reader has missed."""
        ...


class Fold:
    """One catalogue that follows one copy. `applied_seq`: up to where it shows it."""

    def __init__(self, copy: Changing, catalog: Catalog) -> None:
        self.applied_seq = 0
        self._copy = copy
        self._catalog = catalog
        self._generation = 0

    def take(self) -> Changes:
        """Bring the catalogue up to the copy; return what had been missed."""
        missed = self._copy.changes_since(self._generation, self.applied_seq)
        if missed.anew:
            here = {entry.key for entry in missed.entries}
            known = {*self._catalog.records, *self._catalog.unknown}
            for key in sorted(known - here):
                self._catalog.apply(key, None)
        for entry in (*missed.kept, *missed.entries):
            self._catalog.apply(entry.key, entry.value)
        self._generation, self.applied_seq = missed.generation, missed.applied_seq
        return missed
