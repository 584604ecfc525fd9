"""Whom a machine follows: no circle whatever it believes, one relay where all see the same.

Method: Hypothesis makes fleets, and beliefs about them that differ from machine to machine.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.sources import LOG, Chooser, Facts, Source, candidates, core_names, standing
from kythera.model.limits import Limits
from kythera.model.records import Core, Machine

LIMITS = Limits(source_rest_ms_min=1_000, source_rest_ms_max=8_000)
NAMES = [f"m{n}" for n in range(9)]


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Machine, ...]:
    """Return up to nine machines in up to three sites, some of them draining."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    return tuple(
        Machine(
            name=name,
            site=draw(st.sampled_from(["x", "y", "z"])),
            state=draw(st.sampled_from(["active", "active", "active", "draining"])),
        )
        for name in names
    )


SOME = st.frozensets(st.sampled_from(NAMES), max_size=4)


def parent(machine: Machine, machines: tuple[Machine, ...], **facts: frozenset[str]) -> str:
    """Return whom a machine follows first ("" for the log)."""
    return candidates(Facts(me=machine, machines=machines, **facts))[0].relay


@given(data=st.data(), truth=fleets())
def test_there_is_no_circle_whatever_each_machine_believes(
    data: st.DataObject, truth: tuple[Machine, ...]
) -> None:
    """Each has its own old list of machines, cores and silent ones: all chains end at the log.

    Not only the best candidate: any mixture of all candidates is free of circles."""
    follows: dict[str, set[str]] = {}
    for machine in truth:
        believed = data.draw(fleets())
        facts = Facts(me=machine, machines=believed, core=data.draw(SOME), silent=data.draw(SOME))
        found = candidates(facts)
        assert found[-1] == LOG
        assert len(set(found)) == len(found)
        follows[machine.name] = {source.relay for source in found if source != LOG}
    for name in follows:
        reached, new = set[str](), {name}
        while new:
            reached |= new
            new = {up for at in new for up in follows.get(at, set())}
            assert name not in new, f"{name} follows itself in the end"
            new -= reached


@given(truth=fleets(), core=SOME)
def test_all_who_see_the_same_have_one_relay_in_each_site(
    truth: tuple[Machine, ...], core: frozenset[str]
) -> None:
    """In a site without core: one active machine follows the log, the other active ones follow it."""
    for site in {machine.site for machine in truth}:
        there = [machine for machine in truth if machine.site == site]
        parents = {machine.name: parent(machine, truth, core=core) for machine in there}
        if any(machine.name in core for machine in there):
            assert set(parents.values()) == {""}
            continue
        active = [machine.name for machine in there if machine.state == "active"]
        roots = [name for name in active if parents[name] == ""]
        assert len(roots) == min(1, len(active))
        assert all(parents[name] == roots[0] for name in active if name != roots[0])


@given(truth=fleets(), gone=st.sampled_from(NAMES))
def test_a_machine_that_leaves_moves_only_those_that_followed_it(
    truth: tuple[Machine, ...], gone: str
) -> None:
    """Stable: everybody else keeps its source."""
    left = tuple(machine for machine in truth if machine.name != gone)
    for machine in left:
        before, after = parent(machine, truth), parent(machine, left)
        assert before in {after, gone}


@given(truth=fleets())
def test_a_site_with_a_relay_that_is_silent_takes_the_next(truth: tuple[Machine, ...]) -> None:
    """Whoever hears that the relay does not answer leaves it out, and all agree on the next."""
    site = [m for m in truth if m.site == truth[0].site and m.state == "active"]
    if len(site) < 3:
        return
    first, second, *rest = sorted(site, key=lambda machine: standing(machine.name))
    silent = frozenset({first.name})
    assert parent(second, truth, silent=silent) == ""
    assert {parent(machine, truth, silent=silent) for machine in rest} == {second.name}


def site_of_three() -> list[Machine]:
    """Return three machines of one site in their order."""
    machines = [Machine(name=name, site="x") for name in NAMES[:3]]
    return sorted(machines, key=lambda machine: standing(machine.name))


def test_two_places_of_one_name_are_two_sites() -> None:
    """`home` in one region is not `home` in another: nobody relays across."""
    here, there = (Machine(name=n, site="home", region=r) for n, r in [("a", "eu"), ("b", "us")])
    assert parent(here, (here, there)) == parent(there, (here, there)) == ""


def test_a_source_that_failed_is_left_for_the_next_and_tried_again_later() -> None:
    """Relay, next relay, log; and back to the best when its rest is over, which is twice as long
    each time, up to a limit."""
    first, second, me = site_of_three()
    facts = Facts(me=me, machines=(first, second, me))
    chooser = Chooser(LIMITS)
    one, two = Source(first.name), Source(second.name)
    assert chooser.choose(facts, 0.0) == one
    chooser.failed(one, 0.0)
    assert chooser.choose(facts, 0.0) == two
    chooser.failed(two, 0.5)
    assert chooser.choose(facts, 0.6) == LOG
    assert chooser.better(facts, LOG, 0.6) is None
    assert chooser.better(facts, LOG, 1.0) == one
    rests = []
    now = 1.0
    for _ in range(5):
        chooser.failed(one, now)
        began = now
        while chooser.better(facts, LOG, now) != one:
            now += 0.25
        rests.append(now - began)
    assert rests == [2, 4, 8, 8, 8]


def test_when_every_source_rests_the_one_that_may_go_first_is_chosen() -> None:
    """There is always a source to try."""
    first, _, me = site_of_three()
    facts = Facts(me=me, machines=(first, me))
    chooser = Chooser(LIMITS)
    chooser.failed(LOG, 0.0)
    chooser.failed(Source(first.name), 0.5)
    assert chooser.choose(facts, 0.6) == LOG


def test_a_source_that_answers_is_taken_at_once_but_its_failures_count() -> None:
    """One that only answers, and then fails again, rests longer each time."""
    first, _, me = site_of_three()
    facts = Facts(me=me, machines=(first, me))
    chooser = Chooser(LIMITS)
    source = Source(first.name)
    chooser.failed(source, 0.0)
    chooser.answered(source)
    assert chooser.choose(facts, 0.0) == source
    chooser.failed(source, 0.0)
    assert chooser.choose(facts, 1.5) == LOG
    assert chooser.choose(facts, 2.0) == source


def test_a_source_that_held_for_long_rests_briefly() -> None:
    """Old failures are forgotten after a good time."""
    first, _, me = site_of_three()
    facts = Facts(me=me, machines=(first, me))
    chooser = Chooser(LIMITS)
    source = Source(first.name)
    for _ in range(5):
        chooser.failed(source, 0.0)
    chooser.failed(source, 100.0, held_s=90.0)
    assert chooser.choose(facts, 101.0) == source


@pytest.mark.parametrize("core", [None, Core(machines=("b",))])
def test_who_is_core_is_told_by_the_record_or_by_the_machines(core: Core | None) -> None:
    """The Core record is what holds; before there is one, each machine's own word."""
    machines = (Machine(name="a", core=True), Machine(name="b"))
    assert core_names(machines, core) == ({"a"} if core is None else {"b"})
