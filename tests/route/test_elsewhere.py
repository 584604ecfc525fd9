"""Who serves a worker's visitors: each reason, its two thresholds, and fail static."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.catalog import Name
from kythera.model.limits import Limits
from kythera.route.elsewhere import SHARES, Elsewhere, Situation
from kythera.route.mesh import Where

A = "a" * 32
ONE: Name = (A, "one")
TWO: Name = (A, "two")
BOTH = frozenset({ONE, TWO})
MANY = frozenset((A, f"w{number}") for number in range(400))
LIMITS = Limits()


def test_a_quiet_machine_serves_all_by_itself() -> None:
    """Nothing speaks against it."""
    assert decided(Situation(workers=BOTH, peers=4, site_peers=2)) == {ONE: "local", TWO: "local"}


@pytest.mark.parametrize(
    ("facts", "there"),
    [
        (Situation(workers=BOTH, draining=True, peers=1), {ONE: "away", TWO: "away"}),
        (Situation(workers=BOTH, failing=frozenset({ONE}), peers=1), {ONE: "away", TWO: "local"}),
        (Situation(workers=BOTH, missing=frozenset({TWO}), peers=1), {ONE: "local", TWO: "away"}),
        (Situation(workers=BOTH, draining=True, failing=BOTH), {ONE: "local", TWO: "local"}),
        (Situation(workers=BOTH, failing=frozenset({(A, "gone")}), peers=1), None),
    ],
)
def test_each_reason_sends_visitors_to_others_that_are_able(
    facts: Situation, there: dict[Name, Where] | None
) -> None:
    """Draining, not starting, code that is nowhere; and with nobody able everything stays."""
    assert decided(facts) == (there or {ONE: "local", TWO: "local"})


def test_a_worker_that_failed_here_rests_elsewhere_for_a_while() -> None:
    """Between two tries it is not sent here, however briefly it is not called failing."""
    mind = Elsewhere(LIMITS)
    facts = Situation(workers=BOTH, peers=1)
    failing = Situation(workers=BOTH, peers=1, failing=frozenset({ONE}))
    assert mind.decide(failing, 0.0)[ONE] == "away"
    assert mind.decide(facts, LIMITS.failing_away_s - 1)[ONE] == "away"
    assert mind.decide(facts, LIMITS.failing_away_s)[ONE] == "local"


def test_an_overloaded_machine_sheds_by_quarters_and_takes_back_slowly() -> None:
    """Each step takes its time; between the two thresholds nothing moves."""
    mind = Elsewhere(LIMITS)
    shed = [away(mind, 1.0, now) for now in range(41)]
    assert shed[0] == shed[4] == 0
    assert sorted(shed) == shed
    assert shed[-1] == len(MANY)
    for step, count in enumerate([s for n, s in enumerate(shed) if n % 5 == 0][: SHARES + 1]):
        assert abs(count - len(MANY) * step / SHARES) < len(MANY) / 10
    assert mind.overloaded
    assert away(mind, 0.8, 100) == away(mind, 0.8, 1000) == len(MANY)
    back = [away(mind, 0.1, 1001 + now) for now in range(60)]
    assert sorted(back, reverse=True) == back
    assert back[9] == len(MANY)
    assert back[-1] == 0
    assert not mind.overloaded


def test_a_short_peak_sheds_nothing() -> None:
    """What ends before its time has no effect."""
    mind = Elsewhere(LIMITS)
    for now in range(100):
        assert away(mind, 1.0 if now % 5 else 0.8, now) == 0


def test_a_rare_worker_goes_home_after_a_window_and_comes_back_when_asked_more() -> None:
    """Six a minute are rare, thirteen are not; between the two it stays where it is."""
    mind = Elsewhere(LIMITS)
    here = [asked(mind, now, served=now // 10) for now in range(61)]
    assert here == ["local"] * 60 + ["home"]
    assert asked(mind, 70, served=6, homed=12) == "home"
    assert asked(mind, 71, served=6, homed=13) == "local"
    # Ten a minute: not rare enough to go, though it would have been allowed to stay.
    assert {asked(mind, 71 + now, served=6 + now // 6) for now in range(300)} == {"local"}


def test_homes_need_another_machine_of_the_site() -> None:
    """A far machine is no home, and an overloaded one serves what it can where it is asked."""
    mind = Elsewhere(LIMITS)
    for now in (0, 60):
        facts = Situation(workers=BOTH, peers=3, site_peers=0)
        assert mind.decide(facts, now) == {ONE: "local", TWO: "local"}
    # What was watched meanwhile counts.
    assert asked(mind, 61, served=0) == "home"


def test_counters_that_begin_anew_begin_the_window_anew() -> None:
    """HAProxy was started again: its totals are smaller, which is no silence."""
    mind = Elsewhere(LIMITS)
    asked(mind, 0, served=1000)
    asked(mind, 50, served=2000)
    assert asked(mind, 60, served=5) == "local"
    assert asked(mind, 119, served=6) == "local"
    assert asked(mind, 120, served=6) == "home"


situations = st.builds(
    Situation,
    workers=st.just(BOTH),
    draining=st.booleans(),
    cpu_share=st.floats(0, 1),
    peers=st.integers(0, 2),
    site_peers=st.integers(0, 1),
    failing=st.sampled_from([frozenset[Name](), frozenset({ONE}), BOTH]),
    missing=st.sampled_from([frozenset[Name](), frozenset({TWO})]),
    served=st.dictionaries(st.sampled_from([ONE, TWO]), st.integers(0, 100)),
    homed=st.dictionaries(st.sampled_from([ONE, TWO]), st.integers(0, 100)),
)


@given(st.lists(st.tuples(situations, st.floats(0, 50)), max_size=30))
def test_whatever_happened_before_the_promises_hold(
    history: list[tuple[Situation, float]],
) -> None:
    """Nobody able: all here. Draining: all away. Home needs a site."""
    mind, now = Elsewhere(LIMITS), 0.0
    for facts, seconds in history:
        now += seconds
        where = mind.decide(facts, now)
        assert where.keys() == facts.workers
        if facts.peers == 0:
            assert set(where.values()) == {"local"}
        elif facts.draining:
            assert set(where.values()) == {"away"}
        elif facts.site_peers == 0:
            assert "home" not in where.values()
        if facts.peers:
            assert all(where[name] == "away" for name in facts.failing | facts.missing)


def decided(facts: Situation) -> dict[Name, Where]:
    """Decide once, with nothing to remember."""
    return Elsewhere(LIMITS).decide(facts, 0.0)


def away(mind: Elsewhere, cpu_share: float, now: float) -> int:
    """Return how many workers others serve."""
    facts = Situation(workers=MANY, cpu_share=cpu_share, peers=1)
    return list(mind.decide(facts, now).values()).count("away")


def asked(mind: Elsewhere, now: float, served: int, homed: int = 0) -> Where:
    """Decide for one worker on a machine that has a neighbour."""
    facts = Situation(
        workers=frozenset({ONE}), peers=1, site_peers=1, served={ONE: served}, homed={ONE: homed}
    )
    return mind.decide(facts, now)[ONE]
