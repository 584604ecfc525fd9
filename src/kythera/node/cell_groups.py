"""The control groups of cells: made before a process starts, asked and removed when it has ended.

A group that cannot be made costs no start: the process then runs without, and the log says so.
"""

import hashlib

import structlog

from kythera.ground.cgroups import Group, Groups
from kythera.model.limits import MIB
from kythera.run.cell import CellName

SPARE_MIB = 256
"""Beside heap and buffers: what `run.sandbox` spares for workerd itself, and what RLIMIT_DATA does not
count: sockets' buffers, temporary files, page tables."""


class CellGroups:
    """Knows the group of each process, by name."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._left: list[Group] = []
        """Of processes that have ended, not empty when they were to be removed."""
        self._journal = structlog.get_logger("cells")

    def _key(self, process: str) -> str:
        return hashlib.sha256(process.encode()).hexdigest()[:16]

    def open(self, cell: CellName, process: str, memory_mib: int) -> list[str]:
        """Make a process's group; return the folders that it is to join."""
        bytes_max = (2 * memory_mib + SPARE_MIB) * MIB if memory_mib else 0
        try:
            made = self._groups.make((cell.account, cell.worker), self._key(process), bytes_max)
        except OSError as error:
            self._journal.warning("cell_without_group", cell=process, error=str(error))
            return []
        return made.folders

    def close(self, cell: CellName, process: str) -> bool:
        """Remove the group of a process that has ended; tell whether the kernel had killed it for
        its memory."""
        group = self._groups.of((cell.account, cell.worker), self._key(process))
        killed = self._groups.was_killed_for_memory(group)
        self._left = [old for old in (*self._left, group) if not self._groups.remove(old)]
        return killed
