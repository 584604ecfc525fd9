"""Analytics Engine's store: data points, appended to segments, a folder for each account's dataset.

A point is acknowledged when it is on the disk; several share one sync. Promises: an acknowledged point
is there after whatever end of the process or the machine; a segment that was being written then ends
in a line that readers pass over, and nothing is written behind it. What is older than
`analytics_kept_s` goes, and the oldest first when all take more than `analytics_bytes_max`.
Refuses (413) a point larger than `analytics_point_bytes_max`.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import msgspec
import structlog

from kythera.ground.chance import SystemChance
from kythera.ground.files import sync_directory
from kythera.ground.passes import Pass
from kythera.model.limits import Limits
from kythera.store.analytics_files import FIELDS, dataset_folder, segments_of
from kythera.store.exchange import Exchange
from kythera.store.usage import Usage

SILENT_S = 10.0
SEGMENT_BYTES_MAX = 32 * 1024 * 1024
SWEEP_S = 60.0
IDLE_S = 300.0
"""A dataset that nobody writes to for this long has no open segment."""
BLOB, DOUBLE = "blob", "double"


class NotAPoint(Exception):
    """What came is no data point as workerd writes it."""


def read_point(body: bytes) -> dict[str, Any]:
    """Return a point's fields without those that are empty. Pure. Raises NotAPoint."""
    try:
        event = msgspec.json.decode(body, type=dict[str, Any])
        point: dict[str, Any] = {"timestamp": int(event["timestamp"])}
        for name in FIELDS:
            value = event.get(name)
            if isinstance(value, list):
                value = bytes(value).decode(errors="replace")
            if value and isinstance(value, float if name.startswith(DOUBLE) else str | int | float):
                point[name] = value
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
        raise NotAPoint from None
    return point


@dataclass
class Segment:
    """A file that points are appended to, and those that wait for the next write."""

    file: BinaryIO
    size: int = 0
    used_at: float = 0.0
    waiting: list[bytes] = field(default_factory=list)


class AnalyticsStore:
    """All datasets of a machine."""

    def __init__(self, folder: Path, limits: Limits, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.usage = Usage("points")
        self._folder = folder
        self._limits = limits
        self._now = now
        self._open: dict[Path, Segment] = {}
        self._turn = anyio.Lock()
        self._journal = structlog.get_logger("store/analytics")

    async def handle(self, exchange: Exchange, granted: Pass) -> None:
        """POST /: one point, as workerd writes it."""
        body = await exchange.body(self._limits.analytics_point_bytes_max, SILENT_S)
        try:
            point = read_point(body)
        except NotAPoint:
            await exchange.answer(400)
            return
        await self.add(granted.account, granted.resource, point)
        self.usage.add(granted, "points")
        await exchange.answer(204)

    async def add(self, account: str, dataset: str, point: Mapping[str, Any]) -> None:
        """Append a point; return when it is on the disk."""
        folder = dataset_folder(self._folder, account, dataset)
        line = msgspec.json.encode(point) + b"\n"
        segment = self._segment(folder)
        segment.waiting.append(line)
        async with self._turn:
            if not any(waiting is line for waiting in segment.waiting):
                return  # another's write took it along
            try:
                await anyio.to_thread.run_sync(_write, segment)
            except OSError:
                self._close(folder)  # what it ends in nobody knows: the next point opens another
                raise
            if segment.size >= SEGMENT_BYTES_MAX and not segment.waiting:
                self._close(folder)

    def _segment(self, folder: Path) -> Segment:
        segment = self._open.get(folder)
        if segment is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never one that was there: its last line may be torn.
            name = f"{int(self._now()):012d}-{SystemChance().hex(8)}.ndjson"
            segment = self._open[folder] = Segment((folder / name).open("xb", buffering=0))
            for each in (folder, folder.parent, self._folder):
                sync_directory(each)
        segment.used_at = self._now()
        return segment

    def _close(self, folder: Path) -> None:
        segment = self._open.pop(folder, None)
        if segment is not None:
            segment.file.close()

    async def keep(self) -> None:
        """Close what is quiet and forget what is old, for ever."""
        while True:
            await self.sweep()
            await anyio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Close what is quiet and forget what is old, now."""
        async with self._turn:
            for folder, segment in list(self._open.items()):
                if segment.used_at + IDLE_S < self._now() and not segment.waiting:
                    self._close(folder)
            held = {Path(segment.file.name) for segment in self._open.values()}
            await anyio.to_thread.run_sync(self._forget, held)

    def _forget(self, held: set[Path]) -> None:
        found = sorted(segments_of(self._folder), key=lambda path: path.name)
        sizes = {path: path.stat().st_size for path in found}
        total = sum(sizes.values())
        oldest = self._now() - self._limits.analytics_kept_s
        for path in found:
            old = path.stat().st_mtime < oldest
            if path in held or not (old or total > self._limits.analytics_bytes_max):
                continue
            path.unlink()
            total -= sizes[path]
            self._journal.info("segment_forgotten", segment=path.name, old=old)

    def close(self) -> None:
        """Let go of files."""
        for folder in list(self._open):
            with suppress(OSError):
                self._close(folder)


def _write(segment: Segment) -> None:
    """Have all that waits on the disk."""
    lines = list(segment.waiting)
    data = memoryview(b"".join(lines))
    while data:
        data = data[segment.file.write(data) :]
    os.fdatasync(segment.file.fileno())
    segment.size += sum(map(len, lines))
    del segment.waiting[: len(lines)]
