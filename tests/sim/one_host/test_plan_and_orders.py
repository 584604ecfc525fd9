"""Which machines a fleet has, and what an order changes: plain values, no process."""

from pathlib import Path

import pytest

from kythera.ground.relay_links import CUT, HEALTHY, SILENT, Condition
from kythera.model.errors import SetupError
from kythera.sim.one_host.orders import Order, condition_after, pairs, parse_delay_ms
from kythera.sim.one_host.plan import MachinePlan, plan, up_command

SITES = {"m1": "s1", "m2": "s2", "m3": "s1", "m4": "s2"}


def planned(machines: int, sites: int, cores: int | None = None) -> tuple[MachinePlan, ...]:
    """Plan a fleet on one address."""
    hosts = ["127.0.0.1"] * machines
    return plan(
        Path("f"),
        machines=machines,
        sites=sites,
        cores=cores,
        hosts=hosts,
        http_port=0,
        api_port=0,
    )


def test_sites_go_round_and_the_core_is_near_the_founder() -> None:
    """Five machines in two sites: the three of the first site hold the log."""
    found = planned(5, 2)
    assert [one.site for one in found] == ["s1", "s2", "s1", "s2", "s1"]
    assert [one.name for one in found if one.core] == ["m1", "m3", "m5"]


@pytest.mark.parametrize(
    ("machines", "cores", "holders"), [(1, None, 1), (2, None, 1), (3, None, 3), (5, 1, 1)]
)
def test_three_machines_are_core_unless_told_otherwise(
    machines: int, cores: int | None, holders: int
) -> None:
    """A log is on one machine or on three."""
    assert sum(one.core for one in planned(machines, 1, cores)) == holders


@pytest.mark.parametrize(
    ("machines", "sites", "cores"), [(0, 1, 1), (99, 1, 1), (2, 3, 1), (2, 1, 3), (4, 1, 2)]
)
def test_numbers_that_make_no_fleet_are_refused(machines: int, sites: int, cores: int) -> None:
    """Each with a remedy."""
    with pytest.raises(SetupError) as caught:
        planned(machines, sites, cores)
    assert caught.value.remedy


def test_only_a_newcomer_is_started_with_a_token() -> None:
    """The founder and members have none."""
    machine = planned(1, 1)[0]
    assert "--join" not in up_command(machine, "", ())
    assert up_command(machine, "t", ("--limit", "x=1"))[-4:] == ["--join", "t", "--limit", "x=1"]


@pytest.mark.parametrize(("text", "delay_ms"), [("300ms", 300), ("1.5s", 1500), ("0ms", 0)])
def test_a_delay_is_a_number_with_a_unit(text: str, delay_ms: float) -> None:
    """Milliseconds or seconds."""
    assert parse_delay_ms(text) == delay_ms


@pytest.mark.parametrize("text", ["300", "ms", "-1ms", "2h", "61s", "nans", "infms", ""])
def test_what_is_no_delay_is_refused(text: str) -> None:
    """A person is told how to write one."""
    with pytest.raises(SetupError, match="not a delay"):
        parse_delay_ms(text)


def test_an_order_names_machines_sites_or_all() -> None:
    """One way is one direction; otherwise both."""
    assert pairs(Order(do="cut", a="m1", b="m2", one_way=True), SITES) == [("m1", "m2")]
    assert pairs(Order(do="cut", a="m1", b="m2"), SITES) == [("m1", "m2"), ("m2", "m1")]
    assert len(pairs(Order(do="cut", a="s1", b="s2"), SITES)) == 8
    assert len(pairs(Order(do="cut", a="m4", b="all"), SITES)) == 6
    assert len(pairs(Order(do="heal"), SITES)) == 12
    assert pairs(Order(do="cut", a="m1,m3", b="m2", one_way=True), SITES) == [
        ("m1", "m2"),
        ("m3", "m2"),
    ]
    with pytest.raises(SetupError, match="no link"):
        pairs(Order(do="cut", a="m1", b="m1"), SITES)


def test_a_cut_keeps_the_delay_and_healing_ends_both() -> None:
    """One way, or silent, is a black hole; else connections are reset."""
    slow = condition_after(Order(do="slow", a="m1", b="m2", delay_ms=300, loss=0.1), HEALTHY)
    assert slow == Condition(delay_ms=300, loss=0.1)
    assert condition_after(Order(do="cut"), slow) == Condition(state=CUT, delay_ms=300, loss=0.1)
    assert condition_after(Order(do="cut", one_way=True), HEALTHY).state == SILENT
    assert condition_after(Order(do="cut", silent=True), HEALTHY).state == SILENT
    assert condition_after(Order(do="heal"), slow) == HEALTHY
