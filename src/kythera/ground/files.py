"""Files that are whole or absent, and files that have no name.

`write_atomically` promises that a reader, and a machine that lost power, sees the old content or
the new one, never a part. Private files are 0600 from the moment they exist.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """What changes when a file is replaced."""

    inode: int
    size: int
    changed_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """Return a file's stamp; None when there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one step that survives a loss of power."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable and writable by its owner alone (0600)."""
    write_atomically(path, data, 0o600)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def memfd(data: bytes) -> int:
    """Return a descriptor of a file without a name that holds `data`, at its beginning.

    Give each child one of its own: a descriptor's position is shared by all who inherited it."""
    descriptor = os.memfd_create("kythera", os.MFD_CLOEXEC)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def memfd_path(data: bytes) -> Iterator[Path]:
    """Hold `data` at a path for the length of the block: for libraries that read files alone."""
    descriptor = memfd(data)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def has_room(folder: Path, bytes_min: int) -> bool:
    """Tell whether a folder's disk has so much left."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= bytes_min
