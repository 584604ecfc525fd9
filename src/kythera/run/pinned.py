"""Which workerd this machine's cells run: what the operator has chosen, what is in use, and where a
binary in use is kept.

Two files in the state folder: `workerd.json` is the operator's (`kythera workerd use`), `workerd-used.json`
the agent's, written when a binary has proved itself. A binary is known by its mark, which follows
from its file: one that is replaced where it lies (`make setup`) is another one. The one in use is kept
by a second name of its file, if both can lie on one file system, so that it outlives such a
replacement.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec
from msgspec import Struct

from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.run.workerd import find_workerd

MARK_DIGITS = 8


class Choice(Struct, frozen=True, kw_only=True):
    """What the operator wants; no path: the packaged workerd."""

    path: str = ""


class Used(Struct, frozen=True, kw_only=True):
    """A workerd that runs cells: where its file is (and was), its mark, its own word for its version."""

    path: str
    mark: str
    version: str


def mark_of(path: Path) -> str:
    """Return what tells this file from any other. Raises SetupError when it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise SetupError(
            f"there is no workerd at {path}: {error.strerror}.",
            remedy="Choose another: kythera workerd use PATH, or `default` for the packaged one.",
        ) from None
    about = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:MARK_DIGITS]


def choose(layout: Layout, path: Path | None) -> None:
    """Write down what the operator wants."""
    choice = Choice(path=str(path.resolve()) if path is not None else "")
    write_private(layout.workerd_choice, msgspec.json.encode(choice))


def chosen(layout: Layout) -> Path:
    """Return the workerd that the operator wants. Raises SetupError when it cannot be told."""
    try:
        choice = msgspec.json.decode(layout.workerd_choice.read_bytes(), type=Choice)
    except FileNotFoundError:
        return find_workerd()
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{layout.workerd_choice} cannot be read: {error}.",
            remedy="Choose again: kythera workerd use PATH",
        ) from None
    return Path(choice.path) if choice.path else find_workerd()


def last_used(layout: Layout) -> Used | None:
    """Return the workerd that has proved itself here, if its file is still the same."""
    try:
        used = msgspec.json.decode(layout.workerd_used.read_bytes(), type=Used)
        return used if mark_of(Path(used.path)) == used.mark else None
    except (FileNotFoundError, msgspec.MsgspecError, SetupError):
        return None


def workerd_in_use(layout: Layout) -> Path:
    """Return the workerd to run something with now. Raises SetupError when there is none."""
    used = last_used(layout)
    return Path(used.path) if used is not None else chosen(layout)


def keep(layout: Layout, used: Used) -> Used:
    """Give the file of a workerd a second name in the state folder; as it is, where that cannot be."""
    folder = layout.workerd_kept
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o755, exist_ok=True)
        kept = folder / used.mark
        if not kept.exists():
            os.link(used.path, kept)
        if mark_of(kept) == used.mark:
            return msgspec.structs.replace(used, path=str(kept))
    return used


def remember(layout: Layout, used: Used) -> None:
    """Write down which workerd has proved itself."""
    write_private(layout.workerd_used, msgspec.json.encode(used))


def forget_others(layout: Layout, marks: Collection[str]) -> None:
    """Let go of the files of workerds that nothing runs any more."""
    with contextlib.suppress(OSError):
        for kept in layout.workerd_kept.iterdir():
            if kept.name not in marks:
                kept.unlink()
