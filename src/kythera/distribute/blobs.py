"""Content-addressed files: code and assets by the SHA-256 of their bytes, in one folder.

Promises: a blob is whole or absent, whatever is killed or cut when; putting the same bytes again
changes nothing (and heals a damaged file); `read` verifies. A blob's modification time follows
from its digest, so that validators made of size and time differ when the content does and are
equal on every machine.
Refuses: to serve bytes that are not what the name says; names that are not digests.

Layout: `<root>/ab/<digest>`, and `<root>/incoming/` for what is being written. A file there is
locked by its writer; one that nobody locks was left by a crash and is removed at the next start.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import to_thread

from kythera.ground.chance import Chance, SystemChance
from kythera.ground.files import sync_directory
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.names import DIGEST

READ_BYTES = 1024 * 1024
OLDEST_S = 1_000_000_000
SPREAD_S = 600_000_000
"""Modification times fall between 2001 and 2020: never in the future, whatever a clock says."""
BLOB_MODE = 0o444


def modified_s(digest: str) -> int:
    """Return a blob's modification time in Unix seconds (pure)."""
    return OLDEST_S + int(digest[:15], 16) % SPREAD_S


class Blobs:
    """The blobs of one machine below `root`. Any number of processes may use it at once."""

    def __init__(self, root: Path, chance: Chance | None = None) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._chance = chance or SystemChance()
        with _disk(root):
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest. Blocks while the disk syncs."""
        digest = hashlib.sha256(data).hexdigest()
        if self._holds(digest, data):
            return digest
        with self.draft() as draft:
            draft.write(data)
            return draft.commit()

    async def put_stream(self, chunks: AsyncIterable[bytes], *, bytes_max: int) -> str:
        """Keep what `chunks` yields without holding it in memory; refuse more than `bytes_max`."""
        with self.draft() as draft:
            async for chunk in chunks:
                if draft.size + len(chunk) > bytes_max:
                    raise KytheraError(
                        f"The content has more than the {bytes_max:,} bytes that are allowed."
                    )
                await to_thread.run_sync(draft.write, chunk)
            return await to_thread.run_sync(draft.commit)

    def draft(self) -> "Draft":
        """Begin a blob that is written piece by piece: `with blobs.draft() as draft: …`."""
        with _disk(self.root):
            return Draft(self, self._incoming / self._chance.hex(32))

    def _holds(self, digest: str, data: bytes) -> bool:
        try:
            return self.path(digest).read_bytes() == data
        except OSError:
            return False

    def has(self, digest: str) -> bool:
        """Tell whether the blob is on this machine (not whether it is whole: `read` does)."""
        return self.path(digest).is_file()

    def path(self, digest: str) -> Path:
        """Return where the blob lies or would lie."""
        if DIGEST.fullmatch(digest) is None:
            raise KytheraError(f"{digest[:80]!r} is not a SHA-256 digest.")
        return self.root / digest[:2] / digest

    def read(self, digest: str) -> bytes:
        """Return the blob's bytes; StoreUnavailable when it is absent or damaged."""
        path = self.path(digest)
        try:
            with _disk(path):
                data = path.read_bytes()
        except FileNotFoundError:
            raise StoreUnavailable(
                f"Blob {digest} is not on this machine ({path}).",
                remedy="Upload it again: deploy the worker once more.",
            ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreUnavailable(
                f"Blob {path} is damaged: its bytes are not what its name says.",
                remedy="Deploy the worker once more: the same upload replaces the file.",
            )
        return data

    def remove(self, digest: str) -> None:
        """Forget a blob; one that is absent is forgotten already."""
        with _disk(self.path(digest)):
            self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Yield the digests of all blobs on this machine."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            for path in sorted(folder.iterdir()):
                if DIGEST.fullmatch(path.name):
                    yield path.name

    def _sweep(self) -> None:
        """Remove what crashed writers left; what a living writer holds is locked and stays."""
        for path in self._incoming.iterdir():
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


class Draft:
    """A blob being written. Leaving its block without `commit` leaves nothing behind."""

    def __init__(self, blobs: Blobs, path: Path) -> None:
        self.size = 0
        self._blobs = blobs
        self._path = path
        self._hash = hashlib.sha256()
        self._descriptor = _open_locked(path)

    def write(self, chunk: bytes) -> None:
        """Add bytes."""
        rest = memoryview(chunk)
        with _disk(self._blobs.root):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def commit(self) -> str:
        """Make the blob durable under its digest, in one step, and return the digest."""
        digest = self._hash.hexdigest()
        place = self._blobs.path(digest)
        with _disk(self._blobs.root):
            os.fchmod(self._descriptor, BLOB_MODE)
            os.utime(self._descriptor, (modified_s(digest), modified_s(digest)))
            os.fsync(self._descriptor)
            made = not place.parent.is_dir()
            place.parent.mkdir(exist_ok=True, mode=0o700)
            self._path.rename(place)
            sync_directory(place.parent)
            if made:
                sync_directory(self._blobs.root)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _open_locked(path: Path) -> int:
    """Create a file and lock it; a sweep that came between the two has removed it: once more."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn a disk's refusals into StoreUnavailable; an absent file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StoreUnavailable(
            f"The blobs at {path} cannot be used: {error.strerror or error}.",
            remedy="Free space on this disk." if full else "Check the folder and its permissions.",
        ) from error
