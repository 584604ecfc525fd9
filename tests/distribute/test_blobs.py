"""Blobs: whole or absent, verified when read, the same on every machine.

Method: writers are real processes that are killed, or given a disk that is too small, between
their steps.
"""

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.blobs import LEAVING, Blobs, modified_s
from kythera.ground.processes import child
from kythera.model.errors import KytheraError, StoreUnavailable

HELLO = hashlib.sha256(b"hello").hexdigest()


class Moved:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.time

    def monotonic(self) -> float:
        """Return the same."""
        return self.time


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """Return an empty folder of blobs."""
    return Blobs(tmp_path / "blobs")


def files_below(root: Path) -> list[Path]:
    """Return all files below a folder."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_blob_is_read_back_by_its_digest(blobs: Blobs) -> None:
    """Put, has, read, path, list, remove."""
    assert not blobs.has(HELLO)
    assert blobs.put(b"hello") == HELLO
    assert blobs.has(HELLO)
    assert blobs.read(HELLO) == b"hello"
    assert blobs.path(HELLO).read_bytes() == b"hello"
    assert list(blobs.digests()) == [HELLO]
    blobs.remove(HELLO)
    blobs.remove(HELLO)
    assert files_below(blobs.root) == []


@given(data=st.binary(max_size=200))
def test_any_bytes_are_kept_as_they_are(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The empty blob too."""
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    assert blobs.read(blobs.put(data)) == data


def test_putting_the_same_again_changes_nothing(blobs: Blobs) -> None:
    """Same file, same inode: what was linked from it stays linked."""
    blobs.put(b"hello")
    before = blobs.path(HELLO).stat()
    blobs.put(b"hello")
    after = blobs.path(HELLO).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert files_below(blobs.root) == [blobs.path(HELLO)]


def test_the_modification_time_follows_from_the_digest(tmp_path: Path) -> None:
    """Equal on two machines, different for different content of one size, never in the future."""
    one, other = Blobs(tmp_path / "one"), Blobs(tmp_path / "other")
    first, second = one.put(b"aaaa"), one.put(b"bbbb")
    other.put(b"aaaa")
    times = [b.path(d).stat().st_mtime_ns for b, d in ((one, first), (other, first), (one, second))]
    assert times[0] == times[1] != times[2]
    assert all(10**18 <= time < 1_600_000_000 * 10**9 for time in times)
    assert one.path(first).stat().st_mode & 0o777 == 0o444


@given(digest=st.binary(min_size=32, max_size=32))
def test_every_digest_has_a_time_in_the_past(digest: bytes) -> None:
    """From 2001 to 2020, whatever the digest."""
    assert 1_000_000_000 <= modified_s(digest.hex()) < 1_600_000_000


def test_a_damaged_blob_is_reported_with_its_path_and_not_served(blobs: Blobs) -> None:
    """One flipped bit: an error that names the file; the same upload heals it."""
    path = blobs.path(blobs.put(b"hello"))
    path.chmod(0o600)
    path.write_bytes(b"hellp")
    with pytest.raises(StoreUnavailable, match=f"{path} is damaged") as caught:
        blobs.read(HELLO)
    assert "hellp" not in str(caught.value)
    blobs.put(b"hello")
    assert blobs.read(HELLO) == b"hello"


def test_an_absent_blob_is_reported_with_its_path(blobs: Blobs) -> None:
    """Absent is another sentence than damaged."""
    with pytest.raises(StoreUnavailable, match=rf"{HELLO} is not on this machine \({blobs.root}"):
        blobs.read(HELLO)


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", HELLO[:-1], HELLO.upper(), "a/b"])
def test_what_is_no_digest_never_becomes_a_path(blobs: Blobs, name: str) -> None:
    """Names from outside cannot leave the folder."""
    for use in (blobs.path, blobs.has, blobs.read, blobs.remove):
        with pytest.raises(KytheraError, match="not a SHA-256 digest"):
            use(name)


async def _pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.anyio
async def test_a_stream_is_kept_without_holding_it_in_memory(blobs: Blobs) -> None:
    """Piece by piece, the digest is that of the whole."""
    assert await blobs.put_stream(_pieces(b"he", b"", b"llo"), bytes_max=5) == HELLO
    assert blobs.read(HELLO) == b"hello"


@pytest.mark.anyio
async def test_a_stream_over_its_limit_leaves_nothing(blobs: Blobs) -> None:
    """Refused at the first byte too many."""
    with pytest.raises(KytheraError, match="more than the 4 bytes"):
        await blobs.put_stream(_pieces(b"he", b"llo"), bytes_max=4)
    assert files_below(blobs.root) == []


@pytest.mark.anyio
async def test_a_stream_that_breaks_leaves_nothing(blobs: Blobs) -> None:
    """The uploader went away in the middle."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"he"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put_stream(broken(), bytes_max=100)
    assert files_below(blobs.root) == []


def used_s(blobs: Blobs) -> float:
    """Return when the only blob was last used."""
    (found,) = blobs.held()
    return found.used_ns / 1e9


def test_the_access_time_is_that_of_the_last_use_and_nothing_else_moves(tmp_path: Path) -> None:
    """Put, put again, touched: each counts; the modification time stays the digest's."""
    clock = Moved()
    blobs = Blobs(tmp_path / "blobs", clock=clock)
    uses: list[Callable[[bytes], object]] = [blobs.put, blobs.put, lambda _: blobs.touch(HELLO)]
    for step, use in enumerate(uses):
        clock.time = 1_800_000_000.0 + step
        assert use(b"hello")
        assert used_s(blobs) == clock.time
        assert blobs.path(HELLO).stat().st_mtime_ns == modified_s(HELLO) * 10**9
    assert not blobs.touch("0" * 64)


def test_a_blob_that_was_used_since_it_was_looked_at_is_not_let_go(tmp_path: Path) -> None:
    """Who was told that a blob is here may rely on it."""
    clock = Moved()
    blobs = Blobs(tmp_path / "blobs", clock=clock)
    blobs.put(b"hello")
    (found,) = blobs.held()
    clock.time += 1
    assert blobs.touch(HELLO)
    assert not blobs.let_go(found)
    assert blobs.read(HELLO) == b"hello"
    (found,) = blobs.held()
    assert blobs.let_go(found)
    assert blobs.let_go(found)
    assert files_below(blobs.root) == []


def test_a_blob_whose_removal_was_cut_short_is_put_back(blobs: Blobs) -> None:
    """Killed between two names: nothing is lost, nothing is left over."""
    path = blobs.path(blobs.put(b"hello"))
    path.rename(path.with_name(f"{LEAVING}{HELLO}"))
    assert list(blobs.digests()) == []
    blobs.finish_leaving()
    assert blobs.read(HELLO) == b"hello"
    assert files_below(blobs.root) == [path]


def test_a_draft_that_begins_anew_holds_only_what_came_after(blobs: Blobs) -> None:
    """Bytes and digest of the first half are forgotten."""
    with blobs.draft() as draft:
        draft.write(b"something longer")
        draft.restart()
        draft.write(b"hello")
        assert (draft.digest, draft.size) == (HELLO, 5)
        assert draft.commit() == HELLO
    assert blobs.read(HELLO) == b"hello"


KILLED = """
import os, signal, sys
from pathlib import Path
from kythera.distribute import blobs as module

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

kept = module.Blobs(Path(sys.argv[1]))
place, name = {
    "write": (os, "write"),
    "utime": (os, "utime"),
    "sync": (os, "fsync"),
    "rename": (Path, "rename"),
    "sync of the folder": (module, "sync_directory"),
}[sys.argv[2]]
setattr(place, name, die)
kept.put(b"hello")
"""


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.parametrize("step", ["write", "utime", "sync", "rename", "sync of the folder"])
async def test_a_writer_killed_before_a_step_leaves_all_or_nothing(
    tmp_path: Path, step: str
) -> None:
    """Kill -9 before each step: the blob is whole or absent, and the next start tidies up."""
    root = tmp_path / "blobs"
    argv = [sys.executable, "-c", KILLED, str(root), step]
    with anyio.fail_after(20):
        async with child(argv, env={**os.environ, "PYTHONPATH": "src"}) as writer:
            assert await writer.wait() == -9
    assert len(files_below(root)) == 1
    blobs = Blobs(root)
    there = step == "sync of the folder"
    assert blobs.has(HELLO) == there
    assert files_below(root) == ([blobs.path(HELLO)] if there else [])
    assert blobs.put(b"hello") == HELLO
    assert blobs.read(HELLO) == b"hello"


def test_what_a_living_writer_holds_is_left_alone(tmp_path: Path) -> None:
    """Another process that starts meanwhile does not take the file from under the writer."""
    blobs = Blobs(tmp_path / "blobs")
    with blobs.draft() as draft:
        draft.write(b"hel")
        other = Blobs(tmp_path / "blobs")
        draft.write(b"lo")
        assert draft.commit() == HELLO
    assert other.read(HELLO) == b"hello"
    assert files_below(blobs.root) == [blobs.path(HELLO)]


FULL = """
import resource, sys
from pathlib import Path
from kythera.distribute.blobs import Blobs
from kythera.model.errors import StoreUnavailable

blobs = Blobs(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    blobs.put(b"x" * 200_000)
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.real
@pytest.mark.anyio
async def test_a_disk_that_is_too_small_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """The kernel refuses the file in the middle: a clear error, no half blob, no rest."""
    root = tmp_path / "blobs"
    argv = [sys.executable, "-c", FULL, str(root)]
    with anyio.fail_after(20):
        async with child(argv, env={**os.environ, "PYTHONPATH": "src"}) as writer:
            output = await writer.read_output()
            assert await writer.wait() == 0, output.stderr.decode()
    assert output.stdout.decode().strip() == (
        f"The blobs at {root} cannot be used: File too large. Free space on this disk."
    )
    assert files_below(root) == []


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A file where the folder should be: StoreUnavailable with the path, not a traceback."""
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        Blobs(tmp_path / "blobs")
