"""The part of a backup that holds what workers keep: the files of all stores, as of one moment.

Promises: taken while everything runs (`ground.snapshots`); of a file as many bytes as it had at that
moment; a file cut short or changed is found by its SHA-256 before anything is restored. Nothing of it is
ever held in memory as a whole.
"""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from kythera.ground.layout import Layout
from kythera.ground.snapshots import Taken, snapshot, writers
from kythera.model.errors import KytheraError

FOLDER = "data/"
LISTING = "data.json"
PIECE_BYTES = 1024 * 1024
ROUNDS_MAX = 3
"""How often the writers are looked for anew, when another one has begun meanwhile."""


class DataFile(Struct, frozen=True, kw_only=True):
    """One file, by its name below the data folder."""

    name: str
    size: int
    digest: str


@contextmanager
def taken_data(layout: Layout) -> Iterator[list[Taken]]:
    """Take all that workers keep, as it is now; what is given is there until this ends.

    Raises KytheraError when it cannot be taken as of one moment."""
    scratch = layout.state / ".backup"
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    try:
        yield _taken(layout.data, scratch) if layout.data.is_dir() else []
    except (OSError, TimeoutError) as error:
        raise KytheraError(
            f"What workers keep could not be read: {error}.",
            remedy="Try again; as root, if the platform runs as root.",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def add_data(tar: tarfile.TarFile, taken: Iterable[Taken]) -> None:
    """Add files, and a listing of them."""
    listing = msgspec.json.encode([_add(tar, file) for file in taken])
    member = tarfile.TarInfo(LISTING)
    member.size, member.mode = len(listing), 0o600
    tar.addfile(member, io.BytesIO(listing))


def _taken(folder: Path, scratch: Path) -> list[Taken]:
    pids = writers(folder)
    for _ in range(ROUNDS_MAX):
        taken = snapshot(folder, scratch, pids)
        now = writers(folder)
        if set(now) <= set(pids):
            return taken
        pids = now
        shutil.rmtree(scratch)
    raise TimeoutError("programs that write there come and go too fast")


def _add(tar: tarfile.TarFile, taken: Taken) -> DataFile:
    member = tarfile.TarInfo(FOLDER + taken.name)
    member.size, member.mode = taken.size, 0o600
    with taken.path.open("rb") as file:
        digested = Digested(file, taken.size)
        tar.addfile(member, digested)
    return DataFile(name=taken.name, size=taken.size, digest=digested.digest())


class Digested:
    """The first bytes of a stream, and the SHA-256 of those that were read."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read on, not beyond the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Return the SHA-256 of what was read."""
        return self._hash.hexdigest()


def read_file(name: str, stream: IO[bytes], size: int, into: Path | None) -> DataFile:
    """Read a file of the archive to its end, and write it below a folder if there is one to write
    to. Raises KytheraError for a name that leads elsewhere."""
    leaf = name.removeprefix(FOLDER)
    if Path(leaf).is_absolute() or ".." in Path(leaf).parts:
        raise KytheraError(f"The backup holds a file named {leaf[:80]!r}, which leads elsewhere.")
    digested = Digested(stream, size)
    if into is None:
        while digested.read(PIECE_BYTES):
            pass
    else:
        path = into / leaf
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("xb") as file:
            path.chmod(0o600)
            while piece := digested.read(PIECE_BYTES):
                file.write(piece)
    return DataFile(name=leaf, size=size, digest=digested.digest())


def listed(data: bytes) -> list[DataFile]:
    """Read the listing. Raises msgspec errors for garbage."""
    return msgspec.json.decode(data, type=list[DataFile])
