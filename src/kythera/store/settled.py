"""What programs have written below a folder, brought onto the disk by whoever answers for it.

An engine that acknowledges once the kernel has its data survives its own death, not the machine's.
`Settled.wait` returns when all that was written before it was called is on the disk. Those who
call at the same time share one round, and a file that has not grown or changed is not touched.
"""

import os
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from kythera.ground.files import sync_directory

Stamps = dict[Path, tuple[int, int]]


class Settled:
    """One folder's rounds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamps: Stamps = {}
        self._lock = anyio.Lock()
        self._begun = self._done = 0

    async def wait(self) -> None:
        """Return when what was written until now would outlive the machine's power."""
        wanted = self._begun + 1
        async with self._lock:
            if self._done >= wanted:
                return  # a round that began after our call has done it
            self._begun += 1
            self._stamps = await run_sync(sync_below, self._folder, self._stamps)
            self._done = self._begun


def sync_below(folder: Path, before: Stamps) -> Stamps:
    """Sync the files below a folder whose size or time differ from `before`; return them as of now."""
    found: Stamps = {}
    for place, _, names in os.walk(folder):
        here = Path(place)
        new = False
        for name in names:
            path = here / name
            stamp = _stamp(path)
            if stamp is None:
                continue
            found[path] = stamp
            new |= path not in before
            if before.get(path) != stamp:
                _sync(path)
        if new:
            sync_directory(here)
    return found


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone meanwhile, or a socket: nothing that was acknowledged is in it
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
