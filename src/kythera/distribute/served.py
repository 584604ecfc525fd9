"""Which deployment of each worker this machine's front door serves: a fact of the machine alone.

The agent writes it once HAProxy has confirmed, the control API reads it, so that a deploy is
answered when it is live here. Derived and never replicated: losing it costs a wait, so nothing is
synced to the disk.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import lmdb

from kythera.model.errors import StoreUnavailable

MAP_BYTES_MAX = 64 * 1024 * 1024
POLL_S = 0.004


def served_key(account: str, worker: str) -> str:
    """Return where a worker's fact is kept."""
    return f"{account}/{worker}"


class Served:
    """The table: worker → deployment id. One writer, any number of readers."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if readonly and not (path / "data.mdb").exists():
                # A reader may come first; LMDB makes an environment only for a writer.
                lmdb.open(str(path), map_size=MAP_BYTES_MAX, sync=False).close()
            self._env = lmdb.open(
                str(path), map_size=MAP_BYTES_MAX, sync=False, readonly=readonly, lock=True
            )
        except lmdb.Error as error:
            raise StoreUnavailable(
                f"{path} cannot be opened: {error}.", remedy="Remove that folder; it is derived."
            ) from error

    def write(self, facts: Mapping[str, str | None]) -> None:
        """Replace these workers' facts in one step; None forgets one."""
        with self._env.begin(write=True) as transaction:
            for key, deployment in facts.items():
                if deployment is None:
                    transaction.delete(key.encode())
                else:
                    transaction.put(key.encode(), deployment.encode())

    def read(self, account: str, worker: str) -> str | None:
        """Return the id of the deployment that is served, or None."""
        with self._env.begin() as transaction:
            found = transaction.get(served_key(account, worker).encode())
            return None if found is None else bytes(found).decode()

    async def wait(self, account: str, worker: str, deployment: str, within_ms: int) -> bool:
        """Wait until that deployment is served; False when the deadline passed first."""
        with anyio.move_on_after(within_ms / 1000):
            while self.read(account, worker) != deployment:
                await anyio.sleep(POLL_S)
            return True
        return False

    def close(self) -> None:
        """Let go of the files."""
        self._env.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the files."""
        self.close()
