"""What a cache holds, in SQLite: which file is the body of which response, and what may go.

Promises: an object is either there whole or not at all, after whatever end of the process or the
machine: its body is on the disk before its row is. What the index does not name is no part of the
cache. A damaged index is an empty cache.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from kythera.store.cache_purges import Purge
from kythera.store.cache_rules import Head

TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    file TEXT PRIMARY KEY, account TEXT NOT NULL, key BLOB NOT NULL, url TEXT NOT NULL,
    vary TEXT NOT NULL, variant TEXT NOT NULL, status INTEGER NOT NULL, reason TEXT NOT NULL,
    headers TEXT NOT NULL, tags TEXT NOT NULL, size INTEGER NOT NULL, cost INTEGER NOT NULL,
    stored_at REAL NOT NULL, expires_at REAL NOT NULL, used_at REAL NOT NULL,
    UNIQUE (key, variant));
CREATE INDEX IF NOT EXISTS objects_used ON objects (account, used_at);
CREATE INDEX IF NOT EXISTS objects_expire ON objects (expires_at);
CREATE TABLE IF NOT EXISTS purged (account TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
OBJECT_BYTES = 4_096
"""What an object costs beside its body: a block of the disk, its row."""
_COLUMNS = "file, url, vary, variant, status, reason, headers, tags, size, stored_at, expires_at"


class Object(Struct, frozen=True, kw_only=True):
    """One stored response."""

    file: str
    url: str
    vary: tuple[str, ...]
    variant: str
    head: Head
    tags: tuple[str, ...]
    size: int
    stored_at: float
    expires_at: float


class CacheIndex:
    """One cache's index; times are Unix seconds."""

    def __init__(self, folder: Path) -> None:
        self.bodies = folder / "bodies"
        self.bodies.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "index.sqlite"
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError:
            for each in folder.glob("index.sqlite*"):
                each.unlink()
            self._database = _opened(path)
        self._used: dict[str, float] = {}
        self._forget_strays()
        (found,) = self._database.execute("SELECT total(cost) FROM objects").fetchone()
        self.cost = int(found)
        """What all objects take, in bytes."""

    def close(self) -> None:
        """Let go of the database."""
        self._write_used()
        self._database.close()

    def find(self, account: str, key: bytes) -> list[Object]:
        """Return what is stored under a key, expired or not."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM objects WHERE key = ? AND account = ?",  # noqa: S608
            (key, account),
        )
        return [_object(row) for row in rows]

    def add(self, account: str, key: bytes, new: Object) -> None:
        """Name a body that is on the disk; what it replaces goes."""
        same = self._files("key = ? AND variant = ?", (key, new.variant))
        cost = new.size + OBJECT_BYTES
        with self._database:
            self._delete(same)
            self._database.execute(
                "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(new.file, account, key, new.url, json.dumps(new.vary), new.variant),
                    *(new.head.status, new.head.reason, json.dumps(new.head.headers)),
                    *(json.dumps(new.tags), new.size, cost),
                    *(new.stored_at, new.expires_at, new.stored_at),
                ),
            )
            self.cost += cost
        self._unlink(same)

    def remove(self, files: Iterable[str]) -> None:
        """Forget objects."""
        gone = list(files)
        with self._database:
            self._delete(gone)
        self._unlink(gone)

    def used(self, file: str, now: float) -> None:
        """Note that an object was of use."""
        self._used[file] = now
        if len(self._used) >= 1_000:
            self._write_used()

    def expire(self, now: float) -> None:
        """Forget what nobody is given any more."""
        self.remove(self._files("expires_at <= ?", (now,)))

    def make_room(self, bytes_max: int) -> None:
        """Forget what was used longest ago, of the account that takes most, until all fits."""
        self._write_used()
        while self.cost > bytes_max:
            (account,) = self._database.execute(
                "SELECT account FROM objects GROUP BY account ORDER BY sum(cost) DESC LIMIT 1"
            ).fetchone()
            oldest = "account = ? ORDER BY used_at, file LIMIT 32"
            self.remove(self._just_enough(self._costs(oldest, (account,)), bytes_max))

    def _just_enough(self, found: list[tuple[str, int]], bytes_max: int) -> list[str]:
        gone, left = [], self.cost
        for file, cost in found:
            if left <= bytes_max:
                break
            gone.append(file)
            left -= cost
        return gone

    def purge(self, account: str, purge: Purge) -> None:
        """Forget what a purge names, and remember that it was done."""
        rows = self._database.execute(
            "SELECT file, url, tags FROM objects WHERE account = ?", (account,)
        ).fetchall()
        gone = [file for file, url, tags in rows if purge.takes(url, tuple(json.loads(tags)))]
        with self._database:
            self._delete(gone)
            self._database.execute(
                "INSERT OR REPLACE INTO purged VALUES (?, ?)", (account, purge.number)
            )
        self._unlink(gone)

    def purged(self, account: str) -> int:
        """Return the number of the last purge that was done for an account."""
        row = self._database.execute(
            "SELECT number FROM purged WHERE account = ?", (account,)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _files(self, where: str, values: tuple[object, ...]) -> list[str]:
        return [file for file, _ in self._costs(where, values)]

    def _costs(self, where: str, values: tuple[object, ...]) -> list[tuple[str, int]]:
        query = f"SELECT file, cost FROM objects WHERE {where}"  # noqa: S608 (ours alone)
        return list(self._database.execute(query, values))

    def _delete(self, files: Iterable[str]) -> None:
        for file in files:
            statement = "DELETE FROM objects WHERE file = ? RETURNING cost"
            for (cost,) in self._database.execute(statement, (file,)).fetchall():
                self.cost -= cost

    def _unlink(self, files: Iterable[str]) -> None:
        for file in files:
            self._used.pop(file, None)
            (self.bodies / file).unlink(missing_ok=True)

    def _write_used(self) -> None:
        used = [(at, file) for file, at in self._used.items()]
        self._used = {}
        with self._database:
            self._database.executemany("UPDATE objects SET used_at = ? WHERE file = ?", used)

    def _forget_strays(self) -> None:
        """Bodies without rows were being written when the process ended."""
        known = {file for (file,) in self._database.execute("SELECT file FROM objects")}
        for path in self.bodies.iterdir():
            if path.name not in known:
                path.unlink()


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # Losing the last rows is losing cached things; a row that is there is whole all the same.
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(TABLES)
        database.execute("PRAGMA quick_check(1)")
    except sqlite3.DatabaseError:
        database.close()
        raise
    with suppress(OSError):
        path.chmod(0o600)
    return database


def _object(row: tuple[object, ...]) -> Object:
    file, url, vary, variant, status, reason, headers, tags, size, stored_at, expires_at = row
    pairs = tuple((str(name), str(value)) for name, value in json.loads(str(headers)))
    return Object(
        file=str(file),
        url=str(url),
        vary=tuple(json.loads(str(vary))),
        variant=str(variant),
        head=Head(int(str(status)), str(reason), pairs),
        tags=tuple(json.loads(str(tags))),
        size=int(str(size)),
        stored_at=float(str(stored_at)),
        expires_at=float(str(expires_at)),
    )


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk that a folder is on."""
    return shutil.disk_usage(folder).free
