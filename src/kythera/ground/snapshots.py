"""A folder that programs are writing, as it is at one moment.

Promises: what is taken is what a crash of those programs at that moment would have left on the disk, which
is what their engines (SQLite, LMDB, LevelDB, append-only volumes) promise to start from. The programs
are stopped (SIGSTOP) only while names are linked and small or rewritten files are copied; the bytes of
large files that only grow are read afterwards, up to the length that they had. Whatever happens to whoever
takes it, the programs run on: a child of its own lets them go when it is gone.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

GROWING = frozenset({".dat", ".idx", ".log", ".ldb", ".sst", ".blob"})
"""Ends of the names of files that are appended to, or written once: volumes, their indexes, LevelDB's
logs and tables."""
COPIED_AT_ONCE_BYTES_MAX = 64 * 1024
"""Smaller files are copied in any case: a link saves nothing."""
STILL_S_MAX, STILL_POLL_S = 2.0, 0.0005
LEFT_OUT = ("lock.mdb",)
"""Files that mean nothing to another process: LMDB's table of readers."""


@dataclass(frozen=True)
class Taken:
    """One file of the snapshot: where it lay below the folder, where its bytes are now, and how many of
    them belong to it."""

    name: str
    path: Path
    size: int


def snapshot(folder: Path, scratch: Path, pids: Sequence[int]) -> list[Taken]:
    """Take `folder` as it is now; `scratch` is a new folder on the same file system, for the caller to
    remove when it has read all. `pids`: all processes that write there. Raises OSError."""
    scratch.mkdir(mode=0o700, parents=True)
    with stopped(pids):
        return [_take(file, folder, scratch) for file in sorted(_files(folder))]


def writers(folder: Path) -> list[int]:
    """Return the processes that have a file below a folder open, whatever they call it: each may see
    it under another name. Those that this one may not look into are not found."""
    wanted = {(found.st_dev, found.st_ino) for found in map(Path.stat, _files(folder))}
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and not wanted.isdisjoint(_open_files(entry))
    ]


def _open_files(process: Path) -> Iterator[tuple[int, int]]:
    try:
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                found = link.stat()
                yield found.st_dev, found.st_ino
    except OSError:  # it has ended, or is somebody else's
        return


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in LEFT_OUT:
            yield path


def _take(file: Path, folder: Path, scratch: Path) -> Taken:
    name = file.relative_to(folder).as_posix()
    kept, size = scratch / name, file.stat().st_size
    kept.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in GROWING and size > COPIED_AT_ONCE_BYTES_MAX:
        kept.hardlink_to(file)
    else:
        shutil.copyfile(file, kept)
    return Taken(name, kept, size)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Have processes stand still; they go on when this ends, and also when this process dies."""
    reader, writer = os.pipe()
    guardian = os.fork()
    if guardian == 0:  # pragma: no cover (another process)
        os.close(writer)
        _guard(reader, pids)
    os.close(reader)
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        _until_still(pids)
        yield
    finally:
        _go_on(pids)
        os.close(writer)
        os.waitpid(guardian, 0)


def _until_still(pids: Sequence[int]) -> None:
    """A thread inside a call to the kernel ends it first."""
    deadline = time.monotonic() + STILL_S_MAX
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise TimeoutError("A program did not stand still; no snapshot was taken.")
        time.sleep(STILL_POLL_S)


def _runs(pid: int) -> bool:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        states = [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(state not in "TtZX" for state in states)


def _guard(reader: int, pids: Sequence[int]) -> None:  # pragma: no cover (another process)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()  # who ends this one's group does not end it
        os.read(reader, 1)
        _go_on(pids)
    finally:
        os._exit(0)


def _go_on(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
