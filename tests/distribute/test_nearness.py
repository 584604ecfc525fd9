"""Nearness: the order in which a machine asks the others."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.nearness import SITE_ASKED_FIRST, Near, likely_holders, near, nearest
from kythera.model.records import Machine

ME = Machine(name="me", site="flat", region="eu", world="earth")

places = st.sampled_from(["", "a", "b"])
machines = st.lists(
    st.builds(
        Machine,
        name=st.text("abcdef-", min_size=1, max_size=4),
        site=places,
        region=places,
        world=places,
        state=st.sampled_from(["active", "draining"]),
    ),
    max_size=12,
    unique_by=lambda machine: machine.name,
)


def test_a_site_is_nearer_than_a_region_than_a_world_than_the_rest() -> None:
    """Four classes; a site of the same name in another region is another site."""
    found = nearest(
        [
            Machine(name="rest", site="flat", region="eu", world="mars"),
            Machine(name="world", site="flat", region="us", world="earth"),
            Machine(name="region", site="rack", region="eu", world="earth"),
            Machine(name="site", site="flat", region="eu", world="earth"),
        ],
        ME,
    )
    assert [machine.name for machine in found] == ["site", "region", "world", "rest"]
    assert [near(machine, ME) for machine in found] == list(Near)


@given(others=machines, me=st.sampled_from(["a", "b"]), key=st.text(max_size=3))
def test_the_order_holds_all_others_once_and_never_this_machine(
    others: list[Machine], me: str, key: str
) -> None:
    """Sorted by draining, then nearness; the same whatever order the machines came in."""
    here = Machine(name=me, site="a", region="a", world="a")
    found = nearest(others, here, key)
    assert sorted(m.name for m in found) == sorted(m.name for m in others if m.name != me)
    classes = [(machine.state == "draining", near(machine, here)) for machine in found]
    assert classes == sorted(classes)
    assert nearest(reversed(others), here, key) == found


@given(others=machines, key=st.text(min_size=1, max_size=3), gone=st.integers(0, 11))
def test_a_machine_less_leaves_the_order_of_the_rest(
    others: list[Machine], key: str, gone: int
) -> None:
    """Whoever leaves takes only its own place away."""
    rest = [machine for index, machine in enumerate(others) if index != gone]
    found = [machine for machine in nearest(others, ME, key) if machine in rest]
    assert nearest(rest, ME, key) == found


def test_load_spreads_over_machines_that_are_equally_near() -> None:
    """Of 4,000 blobs each of four machines is asked first for a quarter, more or less."""
    others = [Machine(name=f"m{n}", site="flat", region="eu", world="earth") for n in range(4)]
    first = Counter(nearest(others, ME, f"blob {n}")[0].name for n in range(4_000))
    assert all(900 < first[machine.name] < 1_100 for machine in others)


def test_all_who_want_one_blob_agree_on_whom_to_ask_first() -> None:
    """So that it crosses a long link once, and the site's others find it near."""
    site = [Machine(name=f"m{n}", site="flat") for n in range(5)]
    asked = {nearest(site, Machine(name=f"other{n}", site="flat"), "blob")[0].name for n in (1, 2)}
    assert len(asked) == 1


def test_without_a_thing_to_ask_for_each_machine_has_an_order_of_its_own() -> None:
    """Otherwise everybody's first choice would be one machine."""
    others = [Machine(name=f"m{n}", site="flat") for n in range(8)]
    first = {nearest(others, Machine(name=f"other{n}", site="flat"))[0].name for n in range(40)}
    assert len(first) > 4


def test_a_blob_is_asked_of_a_few_here_then_of_the_core_then_of_all() -> None:
    """A hundred machines of one site must not all be asked for what none of them has."""
    site = [Machine(name=f"m{n}", site="flat", region="eu", world="earth") for n in range(100)]
    core = [Machine(name=f"c{n}", site="rack", region="eu", world="earth") for n in range(3)]
    found = [m.name for m in likely_holders([*site, *core], ME, "d", {"c0", "c1", "c2"})]
    assert all(name.startswith("m") for name in found[:SITE_ASKED_FIRST])
    assert set(found[SITE_ASKED_FIRST : SITE_ASKED_FIRST + 3]) == {"c0", "c1", "c2"}
    assert sorted(found) == sorted(m.name for m in [*site, *core])
