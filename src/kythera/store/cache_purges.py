"""What shall be in no cache any more: read from a file that the agent writes from the records. Pure
but for that file.

Each account's purges are numbered; the newest are kept. Who has missed some that are not kept any
more takes it that all was purged: rather too much than what was to go.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from kythera.model.records import Resource

FILE = "purges.json"
RECORD = ("cache_purge", "log")
"""Type and id of the record of an account's purges."""


class Purge(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes: whatever any of these names."""

    number: int
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    """Host and path, without a scheme."""
    tags: tuple[str, ...] = ()
    everything: bool = False

    def takes(self, url: str, tags: tuple[str, ...]) -> bool:
        """Tell whether an object with this URL and these tags goes."""
        parts = urlsplit(url)
        return (
            self.everything
            or url in self.urls
            or (parts.hostname or "") in self.hosts
            or any(f"{parts.netloc}{parts.path}".startswith(prefix) for prefix in self.prefixes)
            or not set(tags).isdisjoint(self.tags)
        )


Purges = Mapping[str, tuple[Purge, ...]]
"""By account, the oldest first."""


def purges_of(record: Resource | None) -> tuple[Purge, ...]:
    """Return what a record asks for."""
    found = [] if record is None else record.fields.get("purges", [])
    return msgspec.convert(found, tuple[Purge, ...])


def encode(purges: Purges) -> bytes:
    """Return the file's text."""
    return msgspec.json.encode(purges)


def read(text: bytes) -> Purges:
    """Return what the file says."""
    return msgspec.json.decode(text, type=dict[str, tuple[Purge, ...]])


def due(purges: tuple[Purge, ...], done: int) -> tuple[Purge, ...]:
    """Return what is still to be done, after number `done`."""
    left = tuple(purge for purge in purges if purge.number > done)
    if left and left[0].number > done + 1:
        return (Purge(number=left[-1].number, everything=True),)
    return left


class PurgeFile:
    """Reads the file again when it has changed."""

    def __init__(self, path: Path, changed: Callable[[Purges], None]) -> None:
        self._path = path
        self._changed = changed
        self._stamp: tuple[int, int, int] | None = None

    def look(self) -> None:
        """Have what is new done."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            self._changed(read(self._path.read_bytes()))
            self._stamp = stamp
