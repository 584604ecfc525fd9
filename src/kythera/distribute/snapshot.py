"""A snapshot of the records, built beside the copy and put in its place in one step.

It is built in a copy of its own (`<copy>.next`), batch by batch, so that one that was cut off goes
on where it stopped, from whatever source. Only when it is whole are its rows taken over, in one
transaction of the copy. Promises: a crash at any moment leaves the copy as it was before, or as it
is after; readers see one of the two. Refuses to put less in the place of more: a snapshot that ends
before what the copy has applied is not taken.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from anyio import to_thread

from kythera.distribute.copy import Copy
from kythera.distribute.direct import Followed
from kythera.distribute.log import LogBehind, LogPruned
from kythera.model.errors import StoreUnavailable

SUFFIX = ".next"


def beside(copy: Copy) -> Path:
    """Return where a copy's next one is built."""
    return copy.path.with_name(copy.path.name + SUFFIX)


async def take_snapshot(source: Followed, copy: Copy, show: Callable[[float], None]) -> None:
    """Replace everything in `copy` by everything the source has now.

    `show` is told which part (0..1) is there. What was begun earlier is used, unless it is too old.
    """
    path = beside(copy)
    try:
        await _fill(source, path, show)
    except (LogPruned, LogBehind):
        shutil.rmtree(path, ignore_errors=True)
        await _fill(source, path, show)
    await to_thread.run_sync(_take_over, copy, path)
    await to_thread.run_sync(lambda: shutil.rmtree(path, ignore_errors=True))


async def _fill(source: Followed, path: Path, show: Callable[[float], None]) -> None:
    with _opened(path) as begun:
        target: int | None = None
        async with contextlib.aclosing(source.snapshot(begun.applied_seq())) as stretches:
            async for stretch in stretches:
                target = stretch.newest if target is None else target
                if stretch.to_seq > begun.applied_seq():
                    await to_thread.run_sync(begun.apply, stretch.entries, stretch.to_seq)
                show(1.0 if target == 0 else min(1.0, begun.applied_seq() / target))


def _opened(path: Path) -> Copy:
    """Open what was begun; begin anew where that is damaged."""
    try:
        return Copy(path)
    except StoreUnavailable:
        shutil.rmtree(path, ignore_errors=True)
        return Copy(path)


def _take_over(copy: Copy, path: Path) -> None:
    with Copy(path) as begun:
        reached = begun.applied_seq()
        if reached < copy.applied_seq():
            raise StoreUnavailable(
                f"The snapshot ends at {reached}, before {copy.applied_seq()}, which is applied."
            )
        copy.replace(begun.entries(), reached)
