"""Who makes which cron call, and when: over machines that die, start anew and write at the same time."""

from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kythera.model.limits import Limits
from kythera.model.records import CronEnd, CronRuns, Machine
from kythera.store.cron import parse
from kythera.store.cron_runs import LOST, Caller, begun, cron_id, due, ended, turn

LIMITS = Limits(cron_catch_up_s=600, cron_take_over_s=20, event_wall_ms=30_000)
T0 = 1_800_000_000 // 60 * 60
CRON = "*/2 * * * *"


def runs_of(cron: str = CRON) -> CronRuns:
    """Return the record of a trigger that was never called."""
    return CronRuns(account="a", worker="w", id=cron_id(cron), cron=cron)


def end_of(slot: int, outcome: str = "ok") -> CronEnd:
    """Return the end of a call."""
    return CronEnd(slot=slot, machine="m", ended_on="", took_ms=1, outcome=outcome)


def test_a_trigger_is_not_due_for_what_was_before_it() -> None:
    """Goal: a new trigger waits for its first time."""
    caller = Caller("m", "1", LIMITS)
    assert due(runs_of(), T0 + 1, 0, caller, T0 + 60) is None
    call = due(runs_of(), T0 + 1, 0, caller, T0 + 120)
    assert call is not None
    assert call.slot == T0 + 120


def test_of_what_was_missed_the_latest_is_made_up_for_unless_it_is_old() -> None:
    """Goal: one call after an hour's sleep, none for a time older than `cron_catch_up_s`."""
    caller = Caller("m", "1", LIMITS)
    call = due(runs_of(), T0, 0, caller, T0 + 3_601)
    assert call is not None
    assert call.slot == T0 + 3_600
    hourly = runs_of("0 * * * *")
    at = parse("0 * * * *").next_after(T0)
    assert at is not None
    assert due(hourly, T0 - 9_999, 0, caller, at + 599) is not None
    assert due(hourly, T0 - 9_999, 0, caller, at + 601) is None


def test_the_others_wait_for_the_one_whose_turn_it_is() -> None:
    """Goal: places differ by `cron_take_over_s`; who drains comes last."""
    machines = [Machine(name=name) for name in "abc"]
    places = {name: turn(name, machines, "w *") for name in "abc"}
    assert sorted(places.values()) == [0, 1, 2]
    drained = [
        msgspec.structs.replace(m, state="draining") if m.name == "a" else m for m in machines
    ]
    assert turn("a", drained, "w *") == 2
    assert turn("alone", [], "w *") == 0
    caller = Caller("m", "1", LIMITS)
    assert due(runs_of(), T0, 2, caller, T0 + 120 + 39) is None
    assert due(runs_of(), T0, 2, caller, T0 + 120 + 40) is not None


def test_what_was_begun_in_an_earlier_life_is_begun_again_and_given_up_in_the_end() -> None:
    """Goal: a restart repeats what it cut off, `event_tries_max` times, and counts it as lost."""
    runs, now = runs_of(), T0 + 120.0
    for life in range(LIMITS.event_tries_max):
        call = due(runs, T0, 0, Caller("m", str(life), LIMITS), now)
        assert call is not None
        assert (call.slot, call.tries) == (T0 + 120, life + 1)
        runs, make = begun(runs, call, LIMITS, now)
        assert make
        assert due(runs, T0, 0, Caller("m", str(life), LIMITS), now) is None
        assert due(runs, T0, 1, Caller("other", "x", LIMITS), now + 30) is None
    call = due(runs, T0, 0, Caller("m", "last", LIMITS), now)
    assert call is not None
    runs, make = begun(runs, call, LIMITS, now)
    assert not make
    assert (runs.calls, runs.last[0].outcome, runs.failed) == ((), LOST, 1)


def test_another_machine_takes_over_when_a_call_cannot_be_under_way_any_more() -> None:
    """Goal: a machine that never came back does not keep its call."""
    now = T0 + 120.0
    call = due(runs_of(), T0, 0, Caller("dead", "1", LIMITS), now)
    assert call is not None
    runs, _ = begun(runs_of(), call, LIMITS, now)
    taken = due(runs, T0, 1, Caller("alive", "1", LIMITS), call.until + 20)
    assert taken is not None
    assert (taken.slot, taken.tries) == (call.slot, 2)


@dataclass
class World:
    """Two machines over one record, with calls that end, or die with their machine."""

    runs: CronRuns = field(default_factory=runs_of)
    lives: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    made: list[tuple[int, str, bool]] = field(default_factory=list)
    """Slot, machine, and whether it was made again."""

    def look(self, machine: str, now: float, *, stale: CronRuns | None) -> None:
        """One machine looks and begins; one whose record is stale is refused by the log."""
        caller = Caller(machine, str(self.lives[machine]), LIMITS)
        place = turn(machine, [Machine(name="a"), Machine(name="b")], "w")
        seen = self.runs if stale is None else stale
        call = due(seen, T0, place, caller, now)
        if call is None or seen != self.runs:
            return
        self.runs, make = begun(self.runs, call, LIMITS, now)
        if make:
            self.made.append((call.slot, machine, call.tries > 1))

    def finish(self, machine: str) -> None:
        """What this life of a machine has under way ends."""
        for call in self.runs.calls:
            if (call.machine, call.life) == (machine, str(self.lives[machine])):
                self.runs = ended(self.runs, call, end_of(call.slot))


STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["look", "look", "look", "late", "finish", "finish", "die"]),
        st.integers(0, 90),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_each_time_is_called_once_unless_a_machine_died_over_it(
    steps: list[tuple[str, str, int]],
) -> None:
    """Property: over any history no slot is begun twice but as a repeat, and slots only grow."""
    world, now, before = World(), float(T0 + 1), runs_of()
    for machine, what, after_s in steps:
        now += after_s
        if what == "die":
            world.lives[machine] += 1
        elif what == "finish":
            world.finish(machine)
        else:
            world.look(machine, now, stale=before if what == "late" else None)
        before = world.runs
    first = [slot for slot, _, again in world.made if not again]
    assert first == sorted(set(first))
    assert world.runs.runs == sum(1 for _ in world.runs.last) or world.runs.runs > 5
