"""This machine's copy as the API opens it: late, if the agent has not made it yet.

Refuses (StoreUnavailable) to be read before that, so that every call says what is missing.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from kythera.distribute.copy import Copy
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
