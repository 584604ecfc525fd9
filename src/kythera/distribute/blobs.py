"""Content-addressed files: code and assets by the SHA-256 of their bytes, in one folder.

Promises: a blob is whole or absent, whatever is killed or cut when; putting the same bytes again
changes nothing (and heals a damaged file); `read` verifies. A blob's modification time follows
from its digest, so that validators made of size and time differ when the content does and are
equal on every machine. Its access time is when it was last used here: set when it is put, fetched
or asked for, never earlier than that.
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
from typing import NamedTuple, Self

from anyio import to_thread

from kythera.ground.chance import Chance, SystemChance
from kythera.ground.clock import Clock, SystemClock
from kythera.ground.files import sync_directory
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.names import DIGEST

READ_BYTES = 1024 * 1024
OLDEST_S = 1_000_000_000
SPREAD_S = 600_000_000
"""Modification times fall between 2001 and 2020: never in the future, whatever a clock says."""
BLOB_MODE = 0o444
LEAVING = ".leaving-"
NS = 1_000_000_000


def modified_s(digest: str) -> int:
    """Return a blob's modification time in Unix seconds (pure)."""
    return OLDEST_S + int(digest[:15], 16) % SPREAD_S


class Damaged(StoreUnavailable):
    """A blob's bytes are not what its name says."""

    def __init__(self, digest: str, path: Path) -> None:
        super().__init__(
            f"Blob {path} is damaged: its bytes are not what its name says.",
            remedy="Deploy the worker once more: the same upload replaces the file.",
        )
        self.digest = digest


class Held(NamedTuple):
    """A blob on this machine: its size in bytes, and when it was last used (Unix nanoseconds)."""

    digest: str
    size: int
    used_ns: int


class Blobs:
    """The blobs of one machine below `root`. Any number of processes may use it at once."""

    def __init__(
        self, root: Path, chance: Chance | None = None, clock: Clock | None = None
    ) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._chance = chance or SystemChance()
        self._clock = clock or SystemClock()
        with _disk(root):
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest. Blocks while the disk syncs."""
        digest = hashlib.sha256(data).hexdigest()
        if self._holds(digest, data) and self.touch(digest):
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
            # Somebody may have emptied the state folder under a running platform.
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
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
            raise Damaged(digest, path)
        return data

    def touch(self, digest: str) -> bool:
        """Note that a blob is used now, which keeps it; tell whether it is here at all."""
        try:
            os.utime(self.path(digest), ns=(self.now_ns(), modified_s(digest) * NS))
        except FileNotFoundError:
            return False
        except OSError:
            return self.has(digest)  # A disk that takes no times can still be read.
        return True

    def now_ns(self) -> int:
        """Return the time as blobs note it: Unix nanoseconds."""
        return int(self._clock.now() * NS)

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

    def held(self) -> Iterator[Held]:
        """Yield all blobs on this machine with size and last use."""
        for digest in self.digests():
            try:
                status = self.path(digest).stat()
            except FileNotFoundError:
                continue
            yield Held(digest, status.st_size, status.st_atime_ns)

    def let_go(self, found: Held) -> bool:
        """Remove a blob unless it was used since it was looked at; tell whether it is gone.

        It is renamed first: who touches it later is told that it is not here, and puts it anew."""
        path = self.path(found.digest)
        leaving = path.with_name(f"{LEAVING}{found.digest}")
        with _disk(path):
            try:
                path.rename(leaving)
            except FileNotFoundError:
                return True
            if leaving.stat().st_atime_ns != found.used_ns:
                leaving.rename(path)
                return False
            leaving.unlink()
        return True

    def finish_leaving(self) -> None:
        """Put back what a crash in `let_go` left between two names. For the one who lets go."""
        for leaving in self.root.glob(f"[0-9a-f][0-9a-f]/{LEAVING}*"):
            with _disk(leaving):
                leaving.rename(self.path(leaving.name.removeprefix(LEAVING)))

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

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget what was written so far."""
        with _disk(self._blobs.root):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0

    def commit(self) -> str:
        """Make the blob durable under its digest, in one step, and return the digest."""
        digest = self.digest
        place = self._blobs.path(digest)
        with _disk(self._blobs.root):
            os.fchmod(self._descriptor, BLOB_MODE)
            os.utime(self._descriptor, ns=(self._blobs.now_ns(), modified_s(digest) * NS))
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
