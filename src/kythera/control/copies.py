"""This machine's copy as the API opens it: late, if the agent has not made it yet.

Refuses (StoreUnavailable) to be read before that, so that every call says what is missing.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Changes, Copy
from kythera.distribute.log import Entry


class LateCopy:
    """Opens the copy at the first reading that finds one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy: Copy | None = None

    def _opened(self) -> Copy:
        if self._copy is None:
            self._copy = Copy(self._path, readonly=True)
        return self._copy

    def applied_seq(self) -> int:
        """Return the newest sequence that the copy shows."""
        return self._opened().applied_seq()

    def changes_after(self, seq: int) -> list[Entry]:
        """Return what came after a sequence."""
        return self._opened().changes_after(seq)

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what a reader has missed, also when the records were replaced as a whole."""
        return self._opened().changes_since(generation, seq)

    def batch_after(self, seq: int, bytes_max: int) -> Stretch:
        """Return what follows a sequence, up to a size: for relaying."""
        return self._opened().batch_after(seq, bytes_max)

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record's sequence and value."""
        return self._opened().get(key)

    def generation(self) -> int:
        """Return how often the records were replaced as a whole."""
        return self._opened().generation()

    def is_whole(self) -> bool:
        """Tell whether the copy has once had everything."""
        return self._opened().is_whole()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._copy is not None:
            self._copy.close()
