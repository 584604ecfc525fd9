"""Letting go of blobs: decided from what is held and needed, never what is still wanted."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.blobs import Held
from kythera.distribute.evict import LOW_SHARE, Decision, Facts, Seen, decide, decide_trees, room

GRACE_S = 100.0
NAMES = [f"{n:02}" for n in range(5)]


def facts(*held: Held, **more: object) -> Facts:
    """Return facts of a machine that is not core, whose copy is fresh and whose room is endless."""
    plain = Facts(
        held=held,
        referenced=set(),
        needed=set(),
        complete=True,
        core=False,
        bytes_max=10**9,
        grace_s=GRACE_S,
        now_s=0.0,
    )
    return plain._replace(**more)  # type: ignore[arg-type]


def removed(decision: Decision) -> list[str]:
    """Return the digests that go."""
    return [blob.digest for blob in decision.remove]


def test_what_nothing_refers_to_goes_after_its_grace_and_not_before() -> None:
    """Seen first, remembered, gone; by a clock that nobody sets."""
    blob = Held("loose", 10, used_ns=5)
    first = decide(facts(blob, now_s=1_000.0), {})
    assert removed(first) == []
    still = decide(facts(blob, now_s=1_099.0), first.seen)
    assert removed(still) == []
    assert removed(decide(facts(blob, now_s=1_100.0), still.seen)) == ["loose"]


def test_a_use_in_between_begins_the_grace_anew() -> None:
    """Somebody was told that it is here: an upload relies on it."""
    first = decide(facts(Held("loose", 10, used_ns=5), now_s=0.0), {})
    again = decide(facts(Held("loose", 10, used_ns=6), now_s=150.0), first.seen)
    assert removed(again) == []
    assert removed(decide(facts(Held("loose", 10, used_ns=6), now_s=250.0), again.seen)) == [
        "loose"
    ]


def test_nothing_is_loose_while_not_everything_is_known() -> None:
    """A copy that lags, a record nobody here can read: forget what was seen."""
    blob = Held("loose", 10, used_ns=5)
    unsure = decide(facts(blob, complete=False, now_s=500.0), {"loose": Seen(5, 0.0)})
    assert removed(unsure) == []
    assert unsure.seen == {}


def test_above_the_limit_the_longest_unused_go_first_to_a_little_below() -> None:
    """Nine of ten stay."""
    held = [Held(f"{n}", 10, used_ns=100 - n) for n in range(11)]
    decision = decide(facts(*held, referenced={b.digest for b in held}, bytes_max=100), {})
    assert sorted(removed(decision)) == ["10", "9"]
    assert decision.over_bytes == 0


def test_what_is_needed_stays_above_the_limit_too_and_that_is_told() -> None:
    """The operator hears by how much."""
    held = [Held("cell", 80, 1), Held("old", 30, 2)]
    decision = decide(facts(*held, referenced={"cell", "old"}, needed={"cell"}, bytes_max=50), {})
    assert removed(decision) == ["old"]
    assert decision.over_bytes == 30


def test_what_is_needed_stays_though_no_version_refers_to_it_any_more() -> None:
    """Of a deleted worker a process still finishes its requests."""
    held = facts(Held("cell", 10, used_ns=5), needed={"cell"}, now_s=1_000.0)
    assert removed(decide(held, {"cell": Seen(5, 0.0)})) == []


def test_a_core_machine_keeps_whatever_any_version_refers_to() -> None:
    """However full: it is the fleet's memory."""
    held = [Held("old", 10**6, 1), Held("loose", 1, 1)]
    decision = decide(facts(*held, referenced={"old"}, core=True, bytes_max=1), {})
    assert removed(decision) == []
    later = decide(
        facts(*held, referenced={"old"}, core=True, bytes_max=1, now_s=GRACE_S), decision.seen
    )
    assert removed(later) == ["loose"]


def test_a_disk_with_little_room_makes_the_limit_smaller() -> None:
    """What shall stay free stays free, as far as blobs can help it."""
    assert room(bytes_max=100, held=50, free=1_000, free_min=10) == 100
    assert room(bytes_max=100, held=50, free=30, free_min=10) == 70
    assert room(bytes_max=100, held=50, free=5, free_min=10) == 45
    assert room(bytes_max=100, held=5, free=0, free_min=10) == 0


blobs = st.lists(
    st.builds(Held, st.sampled_from(NAMES), st.integers(0, 50), st.integers(0, 2)),
    unique_by=lambda blob: blob.digest,
)
some = st.sets(st.sampled_from(NAMES))
seen_before = st.dictionaries(
    st.sampled_from(NAMES), st.builds(Seen, st.integers(0, 2), st.floats(0, 300)), max_size=8
)


@given(
    held=blobs,
    referenced=some,
    needed=some,
    complete=st.booleans(),
    core=st.booleans(),
    bytes_max=st.integers(0, 200),
    seen=seen_before,
)
def test_whatever_the_facts_nothing_wanted_goes_and_the_limit_is_kept_if_it_can_be(
    *,
    held: list[Held],
    referenced: set[str],
    needed: set[str],
    complete: bool,
    core: bool,
    bytes_max: int,
    seen: Mapping[str, Seen],
) -> None:
    """Safety for each blob that goes; and above the limit only what must stay is left."""
    given_facts = facts(
        *held,
        referenced=referenced,
        needed=needed,
        complete=complete,
        core=core,
        bytes_max=bytes_max,
        now_s=300.0,
    )
    decision = decide(given_facts, seen)
    gone = set(removed(decision))
    by_name = {blob.digest: blob for blob in held}
    assert not gone & needed
    for digest in gone - referenced:
        assert complete
        assert seen[digest].used_ns == by_name[digest].used_ns
        assert seen[digest].since_s <= 200.0
    if core:
        assert not gone & referenced
    rest = [blob for blob in held if blob.digest not in gone]
    total = sum(blob.size for blob in rest)
    if not core and total > bytes_max:
        assert all(b.digest in needed or b.digest not in referenced for b in rest)
        assert decision.over_bytes == total - bytes_max
    lru = [by_name[digest] for digest in gone & referenced]
    kept = [b for b in rest if b.digest in referenced - needed]
    assert all(out.used_ns <= stays.used_ns for out in lru for stays in kept)
    if lru:
        newest = max(lru, key=lambda blob: (blob.used_ns, blob.digest))
        assert total + newest.size > bytes_max * LOW_SHARE
    assert set(decision.seen) <= set(by_name) - gone - referenced


def test_a_folder_goes_when_it_was_not_needed_for_its_grace_or_when_room_is_scarce() -> None:
    """One that is needed stays in any case."""
    first = decide_trees({"a", "b"}, {"a"}, {}, 0.0, GRACE_S)
    assert first.remove == ()
    assert decide_trees({"a", "b"}, {"a"}, first.idle_since, 50.0, GRACE_S).remove == ()
    assert decide_trees({"a", "b"}, {"a"}, first.idle_since, 100.0, GRACE_S).remove == ("b",)
    assert decide_trees({"a", "b"}, {"a"}, {}, 0.0, 0.0).remove == ("b",)
    back = decide_trees({"a", "b"}, {"a", "b"}, first.idle_since, 60.0, GRACE_S)
    assert back.idle_since == {}
