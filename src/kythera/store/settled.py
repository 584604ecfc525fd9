"""What programs have written below a folder, brought onto the disk by whoever answers for it.

An engine that acknowledges once the kernel has its data survives its own death, not the machine's.
`Settled.wait` returns when all that was written before it was called is on the disk. Those who
call at the same time share one round, and a file that has not grown or changed is not touched.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from kythera.ground.files import sync_directory

Stamps = dict[str, tuple[int, int]]
SYNCED_AT_ONCE = 4
_SYNCERS = ThreadPoolExecutor(SYNCED_AT_ONCE, "sync")
"""Started when first used; they do nothing between rounds."""


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
    """Sync the files below a folder whose size or time differ from `before`; return them as of now.

    All of them at once, as a disk takes as long for one as for some."""
    found: Stamps = {}
    _look(str(folder), found)
    changed = [path for path, stamp in found.items() if before.get(path) != stamp]
    list(map(_sync, changed) if len(changed) < 2 else _SYNCERS.map(_sync, changed))
    for place in {Path(path).parent for path in found.keys() - before.keys()}:
        sync_directory(place)
    return found


def _look(place: str, found: Stamps) -> None:
    """Note the files below a folder. No `Path`: it is done for each write, for each file there is."""
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _look(entry.path, found)
                else:
                    _note(entry, found)
    except FileNotFoundError:
        return


def _note(entry: os.DirEntry[str], found: Stamps) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    found[entry.path] = status.st_size, status.st_mtime_ns


def _sync(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone meanwhile, or a socket: nothing that was acknowledged is in it
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
