"""The folders of Durable Objects: made for their account, marked by who wrote them, removed.

A worker's folder holds `store`, which its object cell sees and writes, and `workerd`, the version of
the newest workerd that has ever opened it: an older one cannot read what that one has written.
Removed are the objects of classes that a record says were deleted, and nothing else. The objects of a
class that another worker had before are in that worker's folder until this one takes them.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kythera.ground.files import sync_directory, write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.objects import ObjectClass
from kythera.model.workflows import Workflow
from kythera.run.workflows import STORED_IN

STORE, WRITER = "store", "workerd"


def make_storage(layout: Layout, account: str, worker: str, uid: int | None) -> Path:
    """Return the folder that a worker's object cell writes to; `uid`: who it is to be."""
    store = layout.objects_of(account, worker) / STORE
    layout.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (store, *store.rglob("*")) if uid is not None else ():
        if place.stat().st_uid != uid:  # made by a platform that had no uids to give
            os.chown(place, uid or -1, uid or -1)
    return store


def note_writer(layout: Layout, account: str, worker: str, version: str) -> None:
    """Say that this workerd is about to write. Raises KytheraError when a newer one has."""
    file = layout.objects_of(account, worker) / WRITER
    written = _writer(file)
    if version < written:
        raise KytheraError(
            f"the Durable Objects of {worker} were written by workerd {written}; {version}, which is"
            " older, would damage them.",
            remedy="Use that workerd, or a newer one: kythera workerd use.",
        )
    if version > written:
        write_private(file, version.encode())


def take_over(
    layout: Layout, account: str, worker: str, classes: Iterable[ObjectClass]
) -> list[str]:
    """Move the objects of classes that others had to the worker's folder, while nobody has them open;
    return their ids. Done again after a death in between, it goes on. Raises KytheraError when there
    are two: neither is thrown away."""
    own, taken = layout.objects_of(account, worker), []
    for one in classes:
        for giver in one.came_from:
            given = layout.objects_of(account, giver)
            source, target = given / STORE / one.id, own / STORE / one.id
            if not source.is_dir():
                continue
            if target.exists():
                raise KytheraError(
                    f"the Durable Objects of class {one.class_name} of {worker} are there twice:"
                    f" {source} and {target}.",
                    remedy="Move the one of the two that is not wanted out of the state folder.",
                )
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            written = _writer(given / WRITER)
            if written > _writer(own / WRITER):
                write_private(own / WRITER, written.encode())
            source.rename(target)
            for folder in (target.parent, source.parent):
                sync_directory(folder)
            taken.append(one.id)
    return taken


def newest_writer(layout: Layout) -> str:
    """Return the newest workerd that has written any objects here; empty: none has."""
    return max(map(_writer, (layout.data / "objects").glob(f"*/*/{WRITER}")), default="")


def _writer(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def remove_deleted(
    layout: Layout,
    account: str,
    worker: str,
    classes: Iterable[ObjectClass],
    workflows: Iterable[Workflow] = (),
) -> list[str]:
    """Remove the objects of deleted classes and the instances of deleted Workflows, while nobody has
    them open; return their folders' names."""
    store = layout.objects_of(account, worker) / STORE
    ended = [one.id for one in classes if one.deleted]
    ended += [STORED_IN.format(one.id) for one in workflows if one.deleted]
    gone = [name for name in ended if (store / name).is_dir()]
    for key in gone:
        shutil.rmtree(store / key)
    if gone and not any(store.iterdir()):
        shutil.rmtree(store.parent)  # with its mark: no workerd is too old for nothing
    return gone
