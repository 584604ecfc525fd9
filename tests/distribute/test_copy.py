"""This machine's copy: atomic, ordered, repeatable, readable from elsewhere, refusing damage.

Method: Hypothesis plays batches with repeats against a plain dictionary; readers are real
processes; damage is written into the file by hand.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.copy import (
    Copy,
    decode_about,
    decode_row,
    encode_about,
    encode_row,
    open_for_reading,
    wait_applied,
)
from kythera.distribute.log import Entry
from kythera.ground.processes import child
from kythera.model.errors import StoreUnavailable

HERE = Path("copy")
KEYS = st.sampled_from(["worker.a.x", "worker.a.y", "version.a.x.1", "tail.a.y.2", "z"])
VALUES = st.one_of(st.none(), st.binary(min_size=1, max_size=40))
HISTORIES = st.lists(st.tuples(KEYS, VALUES), max_size=40)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Return an empty copy, open for writing."""
    with Copy(tmp_path / "copy") as opened:
        yield opened


def entries_of(history: list[tuple[str, bytes | None]]) -> list[Entry]:
    """Number a history as the log does."""
    return [Entry(n, key, value) for n, (key, value) in enumerate(history, 1)]


@given(history=HISTORIES, cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_any_batches_with_repeats_equal_a_dictionary(
    history: list[tuple[str, bytes | None]],
    cuts: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Feed overlapping, repeated, stale batches: after each, the copy is the dictionary."""
    entries = entries_of(history)
    model: dict[str, Entry] = {}
    done = 0
    with Copy(tmp_path_factory.mktemp("copy")) as copy:
        for start, length in [*cuts, (0, len(entries))]:
            # The log never skips: a batch begins at or before what comes next.
            batch = entries[min(start, done) : min(start, done) + length]
            fresh = copy.apply(batch)
            assert fresh == [entry for entry in batch if entry.seq > done]
            for entry in fresh:
                model[entry.key] = entry
                done = entry.seq
            assert copy.applied_seq() == done
            assert copy.changes_after(0) == sorted(model.values())
        for key, entry in model.items():
            assert copy.get(key) == (entry.seq, entry.value)
        for seq in range(len(entries) + 1):
            assert copy.changes_after(seq) == sorted(e for e in model.values() if e.seq > seq)


def test_a_new_copy_is_empty_and_has_applied_nothing(copy: Copy) -> None:
    """Before the first batch: 0, no record, no change."""
    assert copy.applied_seq() == 0
    assert copy.get("worker.a.w") is None
    assert copy.changes_after(0) == []


def test_what_was_applied_is_there_after_opening_again(tmp_path: Path) -> None:
    """Close and open: same sequence, same records, tombstones included."""
    with Copy(tmp_path / "copy") as copy:
        copy.apply([Entry(3, "a", b"1"), Entry(8, "b", None)])
    with Copy(tmp_path / "copy") as copy:
        assert copy.applied_seq() == 8
        assert copy.get("a") == (3, b"1")
        assert copy.get("b") == (8, None)


def test_a_batch_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """A full copy refuses the batch as a whole and keeps what it had."""
    with Copy(tmp_path / "copy", map_bytes_max=256 * 1024) as copy:
        copy.apply([Entry(1, "a", b"1")])
        large = [Entry(n, f"k{n}", b"x" * 10_000) for n in range(2, 100)]
        with pytest.raises(StoreUnavailable, match="could not be written"):
            copy.apply(large)
        assert copy.applied_seq() == 1
        assert copy.changes_after(0) == [Entry(1, "a", b"1")]
        copy.apply([Entry(2, "b", b"2")])


def test_a_batch_out_of_order_is_impossible(copy: Copy) -> None:
    """The log promises order; a batch without it is a programming error."""
    with pytest.raises(AssertionError, match="disordered"):
        copy.apply([Entry(2, "a", b"1"), Entry(1, "b", b"1")])


READER = """
import sys
from pathlib import Path
import anyio
from kythera.distribute.copy import open_for_reading, wait_applied

async def main():
    copy = await open_for_reading(Path(sys.argv[1]), 10_000)
    print("open", copy.applied_seq(), flush=True)
    await wait_applied(copy, int(sys.argv[2]), 10_000)
    print("saw", copy.get("worker.a.w"), len(copy.changes_after(0)), flush=True)
    copy.close()

anyio.run(main)
"""


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.parametrize("early", [True, False], ids=["before the writer", "after the writer"])
async def test_a_reader_in_another_process_sees_new_batches(tmp_path: Path, early: bool) -> None:
    """A reader that came before the copy existed, or after, sees what is applied later."""
    path = tmp_path / "copy"
    environment = {**os.environ, "PYTHONPATH": "src"}
    writer = contextlib.ExitStack()
    with anyio.fail_after(20), writer:
        copy = None if early else writer.enter_context(Copy(path))
        argv = [sys.executable, "-W", "error", "-c", READER, str(path), "2"]
        async with child(argv, env=environment) as reader:
            copy = copy or writer.enter_context(Copy(path))
            copy.apply([Entry(1, "worker.a.w", b"1")])
            copy.apply([Entry(2, "worker.a.w", b"2"), Entry(3, "worker.a.x", None)])
            output = await reader.read_output()
            assert await reader.wait() == 0, output.stderr.decode()
    assert output.stdout.decode().splitlines()[-1] == "saw (2, b'2') 2"


WRITER = """
import sys
from pathlib import Path
from kythera.distribute.copy import Copy
from kythera.distribute.log import Entry

copy = Copy(Path(sys.argv[1]))
for seq in range(1, 1_000_000, 3):
    copy.apply([Entry(n, f"k{n % 7}", b"%d" % n) for n in range(seq, seq + 3)])
    print(seq, flush=True)
"""


@pytest.mark.real
@pytest.mark.anyio
async def test_a_writer_killed_in_a_batch_leaves_whole_batches(tmp_path: Path) -> None:
    """Kill -9 while batches of three are applied: a whole number of them is there, unmixed."""
    path = tmp_path / "copy"
    argv = [sys.executable, "-c", WRITER, str(path)]
    for _ in range(3):
        with anyio.fail_after(20):
            async with child(argv, env={**os.environ, "PYTHONPATH": "src"}) as writer:
                assert writer.stdout is not None
                await anyio.wait_readable(writer.stdout)
                os.kill(writer.pid, signal.SIGKILL)
                await writer.wait()
        with Copy(path) as copy:
            done = copy.applied_seq()
            assert done > 0
            assert done % 3 == 0
            expected = [Entry(n, f"k{n % 7}", b"%d" % n) for n in range(max(1, done - 6), done + 1)]
            assert copy.changes_after(0) == expected


@pytest.mark.anyio
async def test_a_copy_that_never_appears_is_told(tmp_path: Path) -> None:
    """The deadline's error says who makes the copy."""
    with pytest.raises(StoreUnavailable, match=r"not there within 50 ms.*agent"):
        await open_for_reading(tmp_path / "copy", 50)


@pytest.mark.anyio
async def test_a_copy_that_lags_is_told(copy: Copy) -> None:
    """Waiting for a sequence that does not come ends at the deadline."""
    copy.apply([Entry(4, "a", b"1")])
    await wait_applied(copy, 4, 50)
    with pytest.raises(StoreUnavailable, match="record 5 within 50 ms"):
        await wait_applied(copy, 5, 50)


@given(seq=st.integers(0, 2**63), position=st.integers(0, 17), change=st.integers(1, 255))
def test_damaged_bookkeeping_is_refused(seq: int, position: int, change: int) -> None:
    """Any single changed byte of the copy's own row is noticed."""
    row = bytearray(encode_about(seq))
    assert decode_about(bytes(row), HERE) == seq
    row[position] ^= change
    with pytest.raises(StoreUnavailable):
        decode_about(bytes(row), HERE)


@given(garbage=st.one_of(st.none(), st.binary(max_size=40)))
def test_bookkeeping_that_is_not_ours_is_refused(garbage: bytes | None) -> None:
    """Nothing but what `encode_about` wrote is taken for a sequence number."""
    with pytest.raises(StoreUnavailable):
        decode_about(garbage, HERE)


@given(value=VALUES, position=st.integers(0, 60), change=st.integers(1, 255))
def test_a_damaged_row_is_refused(value: bytes | None, position: int, change: int) -> None:
    """Any changed byte of a record's row is noticed; so is a row under another key."""
    entry = Entry(7, "worker.a.w", value)
    row = bytearray(encode_row(entry))
    assert decode_row("worker.a.w", bytes(row), HERE) == entry
    with pytest.raises(StoreUnavailable):
        decode_row("worker.a.other", bytes(row), HERE)
    row[position % len(row)] ^= change
    with pytest.raises(StoreUnavailable, match=r"worker\.a\.w"):
        decode_row("worker.a.w", bytes(row), HERE)


@pytest.mark.parametrize("about", [None, b"", b"KYTH" + bytes(14)], ids=["gone", "empty", "other"])
def test_a_copy_with_damaged_bookkeeping_does_not_open(tmp_path: Path, about: bytes | None) -> None:
    """The agent is told to make a new copy; it does not start from a guessed sequence."""
    path = tmp_path / "copy"
    with Copy(path) as copy:
        copy.apply([Entry(1, "a", b"1")])
    with lmdb.open(str(path), max_dbs=3) as raw, raw.begin(write=True) as transaction:
        rows = raw.open_db(b"about", txn=transaction)
        transaction.delete(b"about", db=rows)
        if about is not None:
            transaction.put(b"about", about, db=rows)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Copy(path)


def test_a_file_that_is_no_copy_is_refused(tmp_path: Path) -> None:
    """Garbage in place of the file is told with its path."""
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 4_096)
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        Copy(tmp_path)
