"""What the store keeps of short objects: never what a write has replaced, never more than its room."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kythera.store import r2_hot
from kythera.store.r2_hot import OVERHEAD_BYTES, QUIET_S, Hot
from kythera.store.r2_objects import Found, Kept

NAMES = [("bucket", "a"), ("bucket", "b"), ("other", "a")]


@dataclass
class HandClock:
    """A clock that is moved by hand."""

    at: float = 0.0

    def now(self) -> float:
        """Return the time."""
        return self.at

    def monotonic(self) -> float:
        """Return the time."""
        return self.at


def opened(bytes_max: int = 1 << 20, clock: HandClock | None = None) -> Hot:
    """Return one that keeps things already."""
    clock = clock or HandClock()
    hot = Hot(bytes_max, clock)
    clock.at = QUIET_S
    return hot


def found(key: str, version: int) -> Found:
    """Return an object as it was at a version."""
    return Found(key, 1, f"etag-{version}", version, Kept(version=str(version)))


def read(hot: Hot, name: tuple[str, str], version: int) -> None:
    """Read what is there and keep it, with nothing between."""
    hot.keep(name, hot.stamp(name), found(name[1], version), b"%d" % version)


def test_what_was_read_or_written_is_there_until_it_is_written_again() -> None:
    """Goal: a hit is the newest, and a write that failed leaves nothing."""
    hot, name = opened(), NAMES[0]
    assert hot.get(name) is None
    read(hot, name, 1)
    assert hot.get(name) == (found("a", 1), b"1")
    assert hot.get(NAMES[1]) is None
    assert hot.get(NAMES[2]) is None
    with hot.writing([name]) as write:
        assert hot.get(name) is None, "the engine alone knows now"
        write.kept[name] = found("a", 2), b"2"
    assert hot.get(name) == (found("a", 2), b"2")
    with pytest.raises(OSError, match="the engine"), hot.writing([name]) as write:
        write.kept[name] = found("a", 3), b"3"
        raise OSError("the engine is away")
    assert hot.get(name) is None


def test_nothing_is_kept_while_a_store_before_may_still_have_a_write_under_way() -> None:
    """Goal: a killed store's last write, done late by the engine, is not hidden."""
    clock = HandClock()
    hot, name = Hot(1 << 20, clock), NAMES[0]
    clock.at = QUIET_S - 0.1
    read(hot, name, 1)
    assert hot.get(name) is None
    clock.at = QUIET_S
    read(hot, name, 1)
    assert hot.get(name) is not None


def test_room_goes_to_what_was_asked_for_last() -> None:
    """Goal: a bound on memory, and without room nothing at all."""
    one = OVERHEAD_BYTES + 1 + 100
    hot = opened(2 * one)
    for key in ("a", "b"):
        hot.keep(("x", key), hot.stamp(("x", key)), found(key, 1), bytes(100))
    assert hot.get(("x", "a")) is not None
    hot.keep(("x", "c"), hot.stamp(("x", "c")), found("c", 1), bytes(100))
    assert [key for key in "abc" if hot.get(("x", key))] == ["a", "c"]
    hot.keep(("x", "d"), hot.stamp(("x", "d")), found("d", 1), bytes(2 * one))
    assert hot.get(("x", "d")) is None, "larger than the room"
    assert [key for key in "abc" if hot.get(("x", key))] == ["a", "c"]
    for _ in range(3):  # what is replaced is not counted twice
        hot.keep(("x", "a"), hot.stamp(("x", "a")), found("a", 1), bytes(100))
    assert hot.get(("x", "c")) is not None
    closed = opened(0)
    read(closed, NAMES[0], 1)
    assert closed.get(NAMES[0]) is None


@dataclass
class World:
    """An engine that does each write somewhere between its beginning and its end; one that broke off
    it does when it likes, but within QUIET_S."""

    clock: HandClock = field(default_factory=HandClock)
    hot: Hot = field(init=False)
    engine: dict[tuple[str, str], int] = field(default_factory=dict)
    acknowledged: dict[tuple[str, str], int] = field(default_factory=dict)
    under_way: list["Step"] = field(default_factory=list)
    broken_off: list["Step"] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        """Open it."""
        self.hot = opened(clock=self.clock)


@dataclass
class Step:
    """A read or a write that has begun."""

    name: tuple[str, str]
    kind: str
    stamp: int = 0
    seen: int | None = None
    version: int = 0
    block: object = None
    write: object = None


def begin(world: World, kind: str, name: tuple[str, str]) -> None:
    """Begin one."""
    step = Step(name, kind)
    if kind == "read":
        step.stamp = world.hot.stamp(name)
    else:
        world.version += 1
        step.version = world.version
        step.block = world.hot.writing([name])
        step.write = step.block.__enter__()
    world.under_way.append(step)


def at_the_engine(world: World, step: Step) -> None:
    """Have the engine answer it."""
    if step.seen is not None:
        return
    if step.kind == "write":
        world.engine[step.name] = step.version
        step.seen = step.version
    else:
        step.seen = world.engine.get(step.name, 0)


def end(world: World, step: Step) -> None:
    """End it as the store does."""
    at_the_engine(world, step)
    world.under_way.remove(step)
    assert step.seen is not None
    if step.kind == "read":
        world.hot.keep(step.name, step.stamp, found(step.name[1], step.seen), b"%d" % step.seen)
        return
    step.write.kept[step.name] = found(step.name[1], step.version), b"%d" % step.version  # type: ignore[attr-defined]
    step.block.__exit__(None, None, None)  # type: ignore[attr-defined]


def break_off(world: World, step: Step) -> None:
    """Give up a write as the store does whose client has gone; the engine does it later, or has."""
    if step.kind == "write":
        world.under_way.remove(step)
        world.broken_off.append(step)
        step.block.__exit__(OSError, OSError("gone"), None)  # type: ignore[attr-defined]


def wait(world: World) -> None:
    """Let so much time pass that nothing is under way at the engine that nobody waits for."""
    for step in world.broken_off:
        at_the_engine(world, step)
    world.broken_off.clear()
    world.clock.at += QUIET_S


def check(world: World) -> None:
    """A hit is what the engine has."""
    for name in NAMES:
        held = world.hot.get(name)
        if held is not None:
            assert held[0].uploaded_ms == world.engine.get(name, 0), f"{name} is stale"


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "engine", "end", "break", "late", "wait"]),
        st.sampled_from(NAMES),
        st.integers(0, 5),
    ),
    max_size=40,
)


STEPS = {"engine": at_the_engine, "late": at_the_engine, "end": end, "break": break_off}


def played(moves: list[tuple[str, tuple[str, str], int]]) -> None:
    """Play reads and writes that overlap and break off; look after each move."""
    world = World()
    for kind, name, which in moves:
        steps = world.broken_off if kind == "late" else world.under_way
        if kind in ("read", "write"):
            begin(world, kind, name)
        elif kind == "wait":
            wait(world)
        elif steps:
            STEPS[kind](world, steps[which % len(steps)])
        check(world)
    for step in list(world.under_way):
        end(world, step)
        check(world)


@settings(max_examples=300, deadline=None)
@given(MOVES)
def test_however_reads_and_writes_overlap_no_hit_is_stale(
    moves: list[tuple[str, tuple[str, str], int]],
) -> None:
    """Goal: who asks the store hears what the engine would say. Method: any order of steps."""
    played(moves)


@pytest.mark.parametrize("fault", ["no_stamp", "not_forgotten", "no_quiet"])
def test_the_check_of_overlaps_finds_a_planted_fault(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Goal: the property can fail. Method: a cache that ignores what happened meanwhile."""
    name = NAMES[0]
    if fault == "no_stamp":
        monkeypatch.setattr(r2_hot.Hot, "stamp", lambda *_: 0)
        monkeypatch.setattr(
            r2_hot.Hot, "keep", lambda hot, name, _, found, body: hot._put(name, found, body)
        )
        moves = [("read", name, 0), ("engine", name, 0), ("write", name, 0), ("end", name, 1)]
        moves += [("end", name, 0)]
    elif fault == "no_quiet":
        monkeypatch.setattr(r2_hot, "QUIET_S", 0.0)
        moves = [("write", name, 0), ("break", name, 0), ("read", name, 0), ("end", name, 0)]
        moves += [("late", name, 0)]
    else:
        monkeypatch.setattr(r2_hot.Hot, "_told", lambda *_: None)
        moves = [("read", name, 0), ("end", name, 0), ("write", name, 0), ("engine", name, 0)]
    with pytest.raises(AssertionError, match="stale"):
        played(moves)
