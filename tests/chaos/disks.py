"""A small disk for each machine, so that one can be full while the others are not.

Each state folder becomes a tmpfs of its own; that needs the right to mount, and where it is
missing nobody gets a disk and the caller is told. Everything is unmounted at the end.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DISK_MIB = 400
BALLAST = "ballast"
MOUNT_S_MAX = 10


@contextlib.contextmanager
def disks(folders: Sequence[Path]) -> Iterator[bool]:
    """Give each folder a disk for the length of the block; yield whether that was possible."""
    with contextlib.ExitStack() as mounted:
        own = True
        for folder in folders:
            folder.mkdir(parents=True, mode=0o700)
            size = f"size={DISK_MIB}m,mode=0700"
            own = own and _run("mount", "-t", "tmpfs", "-o", size, "kythera", str(folder))
            if own:
                mounted.callback(_run, "umount", "--lazy", str(folder))
        yield own


def _run(*argv: str) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=MOUNT_S_MAX, check=False)
    except OSError:
        return False
    return done.returncode == 0


def filled(folder: Path) -> Callable[[], None]:
    """Fill the disk of a folder to its last byte; return what makes room again."""
    ballast = folder / BALLAST
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for piece in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while os.statvfs(folder).f_bavail:
                    file.write(b"\0" * piece)
    return lambda: ballast.unlink(missing_ok=True)
