"""KV's copy: in the log's order whichever way an entry came, lists in order, nothing that is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import StoreUnavailable
from kythera.store.kv_copy import KvCopy
from kythera.store.kv_entry import (
    Entry,
    Head,
    NotAnEntry,
    Written,
    decode,
    encode,
    encode_row,
    namespace_of,
    row_entry,
    row_head,
    subject,
)

SPACE, OTHER = "0" * 31 + "1", "0" * 31 + "2"
RAW = bytes.fromhex(SPACE)
MIB = 1024 * 1024


def opened(path: Path, boot: str = "boot") -> KvCopy:
    """Open a copy that is small enough for tests."""
    return KvCopy(path, boot=boot, bytes_max=64 * MIB)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[KvCopy]:
    """Return an empty copy."""
    made = opened(tmp_path / "copy")
    yield made
    made.close()


def put(seq: int, key: bytes, value: bytes = b"v", expiration: int = 0, blob: str = "") -> Written:
    """Return a write."""
    head = Head(key, expiration, b"", blob, len(value))
    return Written(seq, SPACE, Entry(head, value))


def ended(seq: int, key: bytes) -> Written:
    """Return a deletion; of the empty key the namespace's."""
    return Written(seq, SPACE, Entry(Head(key, ended=True)))


def names(copy: KvCopy, prefix: bytes = b"", limit: int = 1000, now: float = 0) -> list[bytes]:
    """Return all keys of a list, page by page."""
    found, cursor = [], b""
    while True:
        page = copy.page(RAW, prefix, cursor, limit, now)
        found += [key.name for key in page.keys]
        if not page.cursor:
            return found
        cursor = page.cursor


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(0, 2**40))
def test_an_entry_comes_back_from_the_log_and_from_the_copy(
    key: bytes, value: bytes, seq: int
) -> None:
    """Goal: what is written is read."""
    entry = Entry(Head(key, 5, b"{}", "ab", len(value)), value)
    assert decode(encode(entry)) == entry
    row = encode_row(seq, entry)
    assert row_entry(row) == entry
    assert row_head(memoryview(row)) == entry.head


@given(st.data())
def test_a_damaged_row_is_never_served(data: st.DataObject) -> None:
    """Goal: damage is reported. Method: one byte changed, anywhere."""
    row = bytearray(encode_row(7, Entry(Head(b"key", 0, b"{}", "", 5), b"value")))
    place = data.draw(st.integers(0, len(row) - 1))
    row[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotAnEntry):
        row_entry(bytes(row))


def test_a_keys_place_in_the_log_needs_no_quoting_and_tells_its_namespace() -> None:
    """Goal: keys of any bytes; the end of a namespace outlives the purge of its keys."""
    where = subject(SPACE, b"any * key > at . all")
    assert where.replace("kv.", "", 1).replace(".", "").isalnum()
    assert namespace_of(where) == SPACE
    assert namespace_of(subject(SPACE, b"")) == SPACE
    assert not subject(SPACE, b"").startswith(f"kv.{SPACE}.")


Step = tuple[str, int, int]


@given(st.lists(st.tuples(st.sampled_from(["own", "feed"]), st.integers(0, 3)), max_size=40))
def test_reads_show_the_logs_last_write_whichever_way_it_came(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Goal: an acknowledged write is read, and the feed, which comes later, changes nothing of it.

    Method: a log of writes and ends; own ones are taken at once, the feed lags behind and follows."""
    copy = opened(tmp_path_factory.mktemp("kv") / "copy")
    log: list[Written] = []
    fed = 0
    for way, number in steps:
        key = b"k%d" % number
        made = (
            ended(len(log) + 1, key)
            if len(log) % 3 == 2
            else put(len(log) + 1, key, b"%d" % len(log))
        )
        if way == "own":
            log.append(made)
            copy.take(made)
        elif fed < len(log):
            step = log[fed : fed + 1 + number]
            copy.apply(step, step[-1].seq)
            fed += len(step)
    last = {each.entry.head.key: each.entry for each in log}
    for key, entry in last.items():
        found = copy.get(RAW, key, 0)
        assert found == (None if entry.head.ended else entry)
    copy.apply(log[fed:], len(log))
    assert names(copy) == sorted(key for key, entry in last.items() if not entry.head.ended)
    copy.close()


@given(st.lists(st.text(max_size=3), max_size=30, unique=True), st.text(max_size=2))
def test_a_list_has_all_keys_of_a_prefix_in_the_order_of_their_bytes(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], prefix: str
) -> None:
    """Goal: pages of any size make the same list."""
    copy = opened(tmp_path_factory.mktemp("kv") / "copy")
    keys = [text.encode() for text in texts if text]
    copy.apply([put(n + 1, key) for n, key in enumerate(keys)], len(keys))
    wanted = sorted(key for key in keys if key.startswith(prefix.encode()))
    assert names(copy, prefix.encode()) == wanted
    assert names(copy, prefix.encode(), limit=2) == wanted
    copy.close()


def test_keys_of_the_greatest_length_are_kept_apart_and_listed(copy: KvCopy) -> None:
    """Goal: 512 bytes, though LMDB takes 511 with the namespace in them."""
    keys = [b"k" * 511 + b"%d" % n for n in range(5)] + [b"k" * n for n in (462, 495, 496)]
    copy.apply([put(n + 1, key, key) for n, key in enumerate(keys)], len(keys))
    for key in keys:
        found = copy.get(RAW, key, 0)
        assert found is not None
        assert found.value == key
    assert sorted(names(copy, limit=2)) == sorted(keys)
    assert names(copy, b"k" * 511) == sorted(keys[:5], key=lambda key: names(copy).index(key))


def test_what_has_expired_is_gone_at_once_and_reclaimed_later(copy: KvCopy) -> None:
    """Goal: an expiration is seen on time; a later write of the same key outlives it."""
    copy.apply([put(1, b"a", expiration=100), put(2, b"b", expiration=100), put(3, b"c")], 3)
    copy.take(put(4, b"b", b"later", expiration=200))
    assert names(copy, now=99) == [b"a", b"b", b"c"]
    assert copy.get(RAW, b"a", 100) is None
    assert names(copy, now=100) == [b"b", b"c"]
    assert copy.sweep(100, 10) == 1
    assert copy.sweep(100, 10) == 0
    found = copy.get(RAW, b"b", 150)
    assert found is not None
    assert found.value == b"later"


def test_blobs_are_named_as_long_as_a_key_has_them(copy: KvCopy) -> None:
    """Goal: no value that is read can be swept; none that is not stays for ever."""
    first, second = "aa" * 32, "bb" * 32
    copy.apply([put(1, b"a", blob=first), put(2, b"b", blob=first), put(3, b"c", blob=second)], 3)
    copy.apply([ended(4, b"a"), put(5, b"c", b"small")], 5)
    assert copy.blobs_named() == {first}
    copy.apply([ended(6, b"b")], 6)
    assert copy.blobs_named() == set()


def test_a_namespace_that_has_ended_is_empty_for_ever(copy: KvCopy) -> None:
    """Goal: its keys go, a late write of it changes nothing, others' keys stay."""
    theirs = Written(2, OTHER, put(2, b"k").entry)
    copy.apply([put(1, b"k"), theirs], 2)
    copy.take(ended(3, b""))
    copy.apply([put(4, b"late")], 4)
    assert copy.has_ended(RAW)
    assert names(copy) == []
    assert copy.get(bytes.fromhex(OTHER), b"k", 0) is not None


def test_after_a_start_of_the_machine_the_copy_is_in_doubt(tmp_path: Path) -> None:
    """Goal: what was never synced is not relied on, and not thrown away before the log is met."""
    copy = opened(tmp_path / "copy")
    copy.apply([put(1, b"k"), ended(2, b"")], 2)
    copy.note_heard(5)
    assert copy.is_whole()
    copy.close()
    copy = opened(tmp_path / "copy")
    assert copy.is_whole()
    assert copy.has_ended(RAW)
    copy.close()
    copy = opened(tmp_path / "copy", boot="another")
    assert copy.in_doubt()
    assert not copy.is_whole()
    assert copy.applied_seq() == 2
    copy.clear()
    assert not copy.in_doubt()
    assert copy.applied_seq() == 0
    copy.close()


def test_a_full_copy_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Goal: no half write."""
    copy = KvCopy(tmp_path / "copy", boot="boot", bytes_max=MIB)
    copy.take(put(1, b"k"))
    with pytest.raises(StoreUnavailable, match="Free space"):
        copy.apply([put(n, b"%d" % n, bytes(60_000)) for n in range(2, 40)], 40)
    assert names(copy) == [b"k"]
    copy.close()
