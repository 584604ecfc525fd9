"""The sockets on which cells' processes show that their event loop turns, and are called by the
platform (`events`): one for each process.

Held by the keeper like all listening sockets, so the next agent finds them by their process's name.
"""

import hashlib

from kythera.node.keeper_client import KeeperClient

MARK = "pulse/"
"""Before a process's name: its socket's."""
WAITING_MAX = 64


class Pulses:
    """Opens and closes them, and knows where they are."""

    def __init__(self, keeper: KeeperClient, folder: str) -> None:
        self._keeper = keeper
        self._folder = folder

    def _path(self, process: str) -> str:
        return f"{self._folder}/p{hashlib.sha256(process.encode()).hexdigest()[:12]}.sock"

    def of(self, process: str) -> str | None:
        """Return where a process answers; None when it has no such socket."""
        return self._path(process) if MARK + process in self._keeper.sockets else None

    def orphans(self) -> list[str]:
        """Return the processes that are gone and whose sockets are not."""
        marked = [name for name in self._keeper.sockets if name.startswith(MARK)]
        return [
            name.removeprefix(MARK)
            for name in marked
            if name.removeprefix(MARK) not in self._keeper.processes
        ]

    async def open(self, process: str) -> str:
        """Listen for a process that is to be started; return the keeper's name of the socket."""
        await self._keeper.listen(MARK + process, self._path(process), backlog=WAITING_MAX)
        return MARK + process

    async def close(self, process: str) -> None:
        """Close a process's socket, if it has one."""
        await self._keeper.close(MARK + process)
