"""Who holds the log, whom to ask for it, who writes the heartbeat, and how the log moves: pure."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.cores import (
    ServerPlan,
    Tunnel,
    core_of,
    heartbeat_writer,
    is_core,
    log_candidates,
    next_address,
    servers_wanted,
    strangers,
    tunnels,
)
from kythera.distribute.moving import (
    Announce,
    CannotMove,
    CopyOn,
    Create,
    Facts,
    Freeze,
    Nothing,
    Open,
    Wait,
    drives,
    next_step,
    wished,
)
from kythera.distribute.remembered import remember_core, remembered_core
from kythera.distribute.stream import StreamState
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.membership import Membership, Peer
from kythera.model.records import Core, Machine, Record, encode

FOUNDER = Membership(founder=True)
JOINED = Membership(founder=False, peers=(Peer(name="a", mesh="10.0.0.1:1"),))
MOVING = Core(machines=("a",), wanted=("a", "b", "c"), wanted_epoch=2)
BEAT_MS = 1_000


def catalog(*records: Record) -> Catalog:
    """Return a catalogue of these records."""
    made = Catalog()
    for record in records:
        made.apply(record.key(), encode(record))
    return made


def stream(*, open_: bool = False, frozen: bool = False, last: int = 9) -> StreamState:
    """Return a stream's state."""
    return StreamState(open_, frozen, 1, last, last, 3)


def test_the_founder_holds_the_log_until_a_record_says_otherwise() -> None:
    """Without a record: the founder alone; with one: those it names."""
    assert is_core(catalog(), FOUNDER, "a")
    assert is_core(catalog(), None, "a")
    assert not is_core(catalog(), JOINED, "b")
    three = catalog(Core(machines=("b", "c", "d"), epoch=2))
    assert not is_core(three, FOUNDER, "a")
    assert is_core(three, JOINED, "b")


def test_a_machine_runs_both_epochs_servers_while_the_log_moves() -> None:
    """Old and new on the machine that has both, the new one alone where it arrives."""
    assert servers_wanted(None, "a") == ()
    assert servers_wanted(Core(machines=("a",)), "a") == (ServerPlan(1, ("a",)),)
    assert [plan.name for plan in servers_wanted(MOVING, "a")] == ["nats-2", "nats"]
    assert servers_wanted(MOVING, "b") == (ServerPlan(2, ("a", "b", "c")),)
    assert servers_wanted(MOVING, "d") == ()


def test_two_epochs_of_servers_meet_at_different_services() -> None:
    """An even and an odd epoch may live side by side behind one mesh port."""
    services = {ServerPlan(epoch, ("a", "b", "c")).service for epoch in (2, 3)}
    assert services == {"route", "route-odd"}


def test_tunnels_lead_to_all_peers_and_not_to_oneself() -> None:
    """One for each peer, at the kept port, with the address in the records if there is one."""
    known = catalog(Machine(name="b", mesh="10.0.0.2:7"))
    made = tunnels(ServerPlan(2, ("a", "b", "c")), "a", {"b": 11, "c": 12}, known)
    assert made == (
        Tunnel("log-2-b", "127.0.0.1:11", "b", "10.0.0.2:7", "route"),
        Tunnel("log-2-c", "127.0.0.1:12", "c", "", "route"),
    )


def test_the_log_is_asked_of_oneself_then_of_the_nearest() -> None:
    """Own server first, then site, region, world; those to whom it moves come last."""
    known = catalog(
        Core(machines=("a", "b", "c"), epoch=2, wanted=("a", "b", "d"), wanted_epoch=3),
        *(Machine(name=name, site=site) for name, site in zip("abcdx", "12345", strict=True)),
        Machine(name="y", site="3"),
    )
    names = [peer.name for peer in log_candidates(known, JOINED, "y")]
    assert names[0] == "c"
    assert sorted(names[1:3]) == ["a", "b"]
    assert names[3:] == ["d"]
    assert log_candidates(known, JOINED, "b")[0].name == "b"
    assert log_candidates(known, JOINED, "d")[0].name == "d"


def test_a_machine_that_knows_nothing_yet_asks_whom_it_was_told() -> None:
    """An empty copy: the peers of the membership; they also come last later on."""
    assert log_candidates(catalog(), JOINED, "b") == JOINED.peers
    moved = catalog(Core(machines=("c", "d", "e"), epoch=2))
    assert log_candidates(moved, JOINED, "b")[-1] == JOINED.peers[0]
    assert core_of(catalog(), JOINED, "b") is None


def test_who_was_away_while_the_log_moved_twice_has_others_to_ask() -> None:
    """Whoever it knows to hold the log may hold it no more; all other machines may, nearest first."""
    known = catalog(
        Core(machines=("a",)),
        *(Machine(name=name, site=site) for name, site in zip("abcy", "1222", strict=True)),
    )
    candidates = log_candidates(known, JOINED, "y")
    assert {peer.name for peer in candidates} == {"a"}
    assert sorted(peer.name for peer in strangers(known, candidates, "y")) == ["b", "c"]
    assert strangers(catalog(), candidates, "y") == ()


def test_after_a_failure_the_next_one_is_asked() -> None:
    """The best that never failed; when all failed, who failed longest ago."""
    peers = [Peer(name=name, mesh="") for name in "abc"]
    assert next_address(peers, {}) == peers[0]
    assert next_address(peers, {"a": 5.0}) == peers[1]
    assert next_address(peers, {"a": 5.0, "b": 3.0, "c": 4.0}) == peers[1]
    assert next_address([], {}) is None


def test_the_heartbeats_writer_goes_on_and_is_replaced_in_turn() -> None:
    """Each second by the writer; after three by the next in line, after five by the one after."""
    cores = ("c", "a", "b")

    def writers(silent_ms: float, writer: str) -> list[str]:
        return [m for m in "abcd" if heartbeat_writer(cores, writer, silent_ms, m, BEAT_MS)]

    assert writers(999, "b") == []
    assert writers(1_000, "b") == ["b"]
    assert writers(3_000, "b") == ["b", "c"]
    assert writers(5_000, "b") == ["a", "b", "c"]
    assert writers(1_000, "gone") == ["a"]


@given(st.sampled_from(["", "a", "b", "c", "x"]), st.floats(0, 10_000))
def test_some_core_machine_writes_once_the_silence_is_long_enough(
    writer: str, silent_ms: float
) -> None:
    """After five beats everybody would; before one nobody does, and never who is not core."""
    cores = ("a", "b", "c")
    due = {m for m in (*cores, "x") if heartbeat_writer(cores, writer, silent_ms, m, BEAT_MS)}
    assert "x" not in due
    assert bool(due) == (silent_ms >= BEAT_MS)
    assert (len(due) == 3) == (silent_ms >= 5 * BEAT_MS)


def test_a_wish_for_an_even_number_of_machines_is_refused() -> None:
    """1, 3 or 5; and one that has the log must stay, or nobody could copy it."""
    alone = Core(machines=("a",))
    assert wished(alone, ("c", "a", "b")) == MOVING
    for names in ((), ("a", "b"), ("a", "b", "c", "d")):
        with pytest.raises(CannotMove, match="cannot hold the log"):
            wished(alone, names)
    with pytest.raises(CannotMove, match="none could copy"):
        wished(alone, ("b", "c", "d"))


def test_a_wish_may_be_changed_and_given_up_and_never_uses_a_number_twice() -> None:
    """Each other set of machines gets servers of its own; the same wish again changes nothing."""
    other = wished(MOVING, ("a", "d", "e"))
    assert (other.wanted, other.wanted_epoch) == (("a", "d", "e"), 3)
    assert wished(MOVING, ("a", "b", "c")) == MOVING
    given_up = wished(other, ("a",))
    assert (given_up.wanted, given_up.wanted_epoch) == ((), 3)
    assert wished(given_up, ("a", "b", "c")).wanted_epoch == 4


def test_a_move_goes_from_step_to_step() -> None:
    """The whole way, one fact after the other."""
    all_three = frozenset("abc")
    told = Facts(core=MOVING, old=stream(open_=True))
    assert isinstance(next_step(told), Wait)
    led = {"answering": all_three, "led": True}
    assert next_step(Facts(core=MOVING, old=stream(open_=True), **led)) == Freeze()  # type: ignore[arg-type]
    frozen = stream(frozen=True)
    assert next_step(Facts(core=MOVING, old=frozen, **led)) == Create(10)  # type: ignore[arg-type]
    new = stream()
    more = Facts(core=MOVING, old=frozen, new=new, copied_to=4, answering=all_three, led=True)
    assert next_step(more) == CopyOn(4)
    done = Facts(
        core=MOVING, old=frozen, new=new, copied_to=9, left=False, answering=all_three, led=True
    )
    assert next_step(done) == Open()
    opened = Facts(core=MOVING, old=None, new=stream(open_=True))
    assert next_step(opened) == Announce(Core(machines=("a", "b", "c"), epoch=2))
    assert next_step(Facts(core=Core(machines=("a",)), old=stream(open_=True))) == Nothing()


def test_nothing_is_frozen_before_all_new_servers_answer_and_goes_on_with_most() -> None:
    """One missing: wait, while writers still write; lost later: two of three carry on."""
    two = frozenset("ab")
    before = Facts(core=MOVING, old=stream(open_=True), answering=two, led=True)
    assert next_step(before) == Wait("for the new servers of c")
    after = Facts(core=MOVING, old=stream(frozen=True), answering=two, led=True)
    assert next_step(after) == Create(10)
    one = Facts(core=MOVING, old=stream(frozen=True), answering=frozenset("a"), led=True)
    assert isinstance(next_step(one), Wait)


STATES = [None, stream(open_=True), stream(frozen=True), stream()]


def test_two_streams_are_never_open_at_once_and_none_opens_half_copied() -> None:
    """Over all facts: the new one opens only while the old is frozen and nothing is left."""
    for old, new, led, left, heard in itertools.product(
        STATES, STATES, (True, False), (True, False), ("", "a", "ab", "abc")
    ):
        facts = Facts(core=MOVING, old=old, new=new, led=led, left=left, answering=frozenset(heard))
        step = next_step(facts)
        if isinstance(step, Open):
            assert old is not None
            assert old.frozen
            assert new is not None
            assert not left
        if isinstance(step, Create):
            assert old is not None
            assert old.frozen
            assert new is None


def test_the_first_machine_that_has_both_drives_and_the_next_steps_in() -> None:
    """Only who has an old and a new server; the others in line wait ten seconds each."""
    core = Core(machines=("a", "b", "c"), epoch=2, wanted=("b", "c", "d"), wanted_epoch=3)
    assert [m for m in "abcd" if drives(core, m, 0)] == ["b"]
    assert [m for m in "abcd" if drives(core, m, 10_000)] == ["b", "c"]


def test_what_was_remembered_counts_until_the_records_say_something_newer() -> None:
    """A founder whose copy is lost starts the servers it had, not a second log; a copy that is
    being made anew and still shows an old record does not take it back."""
    moved = Core(machines=("a", "b", "c"), epoch=2)
    assert core_of(catalog(), FOUNDER, "a", moved) == moved
    assert core_of(catalog(MOVING), FOUNDER, "a", moved) == moved
    later = Core(machines=("b", "c", "d"), epoch=3)
    assert core_of(catalog(later), FOUNDER, "a", moved) == later
    given_up = wished(MOVING, ("a",))
    assert core_of(catalog(given_up), FOUNDER, "a", MOVING) == given_up
    assert log_candidates(catalog(), FOUNDER, "a", moved)[0].name == "a"


def test_who_holds_the_log_is_kept_beside_its_stores(tmp_path: Path) -> None:
    """Written where the machine is concerned, and again when it no longer is."""
    layout = Layout(tmp_path)
    assert remembered_core(layout) is None
    remember_core(layout, MOVING, "x")
    assert remembered_core(layout) is None
    remember_core(layout, MOVING, "b")
    assert remembered_core(layout) == MOVING
    remember_core(layout, Core(machines=("a",), epoch=4), "b")
    assert remembered_core(layout) == Core(machines=("a",), epoch=4)


@pytest.mark.parametrize(
    ("name", "epoch"), [("nats", 1), ("nats-7", 7), ("haproxy", 0), ("nats-x", 0), ("cell/nats", 0)]
)
def test_a_server_is_known_by_the_name_of_its_process(name: str, epoch: int) -> None:
    """So that no store is removed under a server that still runs."""
    assert ServerPlan.epoch_of(name) == epoch
