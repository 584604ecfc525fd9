"""The plan: who gets which slot, which host leads where."""

from hypothesis import given
from hypothesis import strategies as st

from kythera.model.catalog import Catalog
from kythera.route.mesh import PeerDoor, Peers, server_numbers
from kythera.route.patterns import SCHEMES, parse_pattern
from kythera.route.plan import (
    MAPS,
    NOWHERE,
    ROUTED,
    SLOTS_MIN,
    FrontPlan,
    decode_plan,
    encode_plan,
    plan_front,
)
from tests.route.worlds import ACCOUNTS, HOSTS, World, steps

A = ACCOUNTS[0]


def planned(world: World, previous: FrontPlan | None = None) -> FrontPlan:
    """Return the plan of a world."""
    return plan_front(
        world.catalog,
        world.traffic,
        world.failing,
        domain="localhost",
        previous=previous,
        peers=world.peers,
        where=world.where,
    )


def simple(*workers: str) -> World:
    """Return a world of workers with one cell each."""
    world = World()
    for worker in workers:
        world.put((A, worker), cells=((0, 100.0),), routes=[], domains=[], hostname=True)
    return world


def test_an_empty_catalogue_gives_an_empty_plan() -> None:
    """Nothing deployed: slots wait, no host is known."""
    plan = plan_front(Catalog(), {}, {}, domain="localhost", previous=None)
    assert plan == FrontPlan()
    assert plan.slots == SLOTS_MIN


@given(steps())
def test_a_plan_survives_its_file(history: list[World]) -> None:
    """What is saved is what is read, the order of rows included."""
    plan: FrontPlan | None = None
    for world in history:
        plan = planned(world, plan)
        read = decode_plan(encode_plan(plan))
        assert read == plan
        assert [list(rows.items()) for rows in read.maps.values()] == [
            list(rows.items()) for rows in plan.maps.values()
        ]


@given(steps())
def test_workers_keep_their_slots_and_never_get_one_that_is_just_left(
    history: list[World],
) -> None:
    """A slot stays its worker's; one left now is free only for the next plan."""
    before = FrontPlan()
    for world in history:
        plan = planned(world, before)
        assert planned(world, plan) == plan
        for slot, owner in plan.owners.items():
            assert before.owners.get(slot, owner) == owner
        slots_before = {owner: slot for slot, owner in before.owners.items()}
        for slot, owner in plan.owners.items():
            assert slots_before.get(owner, slot) == slot
        assert not set(plan.freed) & set(plan.owners)
        before = plan


def test_slots_double_when_they_run_out_and_the_oldest_free_one_goes_first() -> None:
    """64 workers fit, the 65th makes 128; freed slots wait their turn."""
    full = planned(simple(*(f"w{n}" for n in range(SLOTS_MIN))))
    assert full.slots == SLOTS_MIN
    more = planned(simple(*(f"w{n}" for n in range(SLOTS_MIN + 1))), full)
    assert more.slots == 2 * SLOTS_MIN
    fewer = planned(simple("w1"), full)
    assert (fewer.slots, len(fewer.freed)) == (SLOTS_MIN, SLOTS_MIN - 1)
    again = planned(simple("w1", "new"), fewer)
    assert {owner.partition("/")[2]: slot for slot, owner in again.owners.items()} == {
        "w1": full.maps["hosts"]["w1.localhost"],
        "new": fewer.freed[0],
    }


@given(steps())
def test_look_ups_in_the_maps_agree_with_the_patterns_meaning(history: list[World]) -> None:
    """The maps, asked as HAProxy asks them, find what a plain reading of all records finds."""
    world = history[-1]
    plan = planned(world)
    for scheme in SCHEMES:
        for host in (*HOSTS, "z.example.com", "two.localhost", "nobody"):
            for path in ("/", "/a", "/a?x", "/a/b", "/A;b'\"\\#$(1){2}%20z"):
                assert _asked(plan, scheme, host, path) == _meant(world, scheme, host, path)


def _asked(plan: FrontPlan, scheme: str, host: str, path: str) -> str | None:
    """Do what the configuration does."""
    import re

    slot = plan.maps["hosts"].get(host, ROUTED + NOWHERE)
    if slot.startswith(ROUTED):
        url = f"{scheme}://{host}{path}"
        prefixes = [key for key in plan.maps["routes_prefix"] if url.startswith(key)]
        slot = (
            plan.maps["routes_exact"].get(url)
            or plan.maps["routes_prefix"].get(max(prefixes, key=len, default=""))
            or next((s for r, s in plan.maps["routes_wild"].items() if re.search(r, url)), None)
            or slot.removeprefix(ROUTED)
        )
    return plan.owners.get(slot)


def _meant(world: World, scheme: str, host: str, path: str) -> str | None:
    """Read routes, domains and hostnames one by one."""
    names = [(worker.account, worker.name) for worker in world.catalog.workers()]
    # Of equal claims the first worker's wins: of routes by its slot, which here is its order.
    found = [
        (pattern.rank(), index, name)
        for index, name in enumerate(names)
        for route in world.catalog.routes(*name).routes
        if (pattern := parse_pattern(route.pattern)).matches(scheme, host, path)  # type: ignore[arg-type]
    ]
    if found:
        return "/".join(min(found)[2])
    for name in names:
        if host in world.catalog.domains(*name).hostnames:
            return "/".join(name)
    for account, worker in names:
        record = world.catalog.worker(account, worker)
        if record is not None and record.hostname_enabled and host == f"{worker}.localhost":
            return f"{account}/{worker}"
    return None


def test_who_serves_a_worker_is_one_row_and_most_have_none() -> None:
    """Where, who, and why not here; nothing for what is simply served here."""
    world = simple("one", "two", "three", "four")
    world.where = {(A, "two"): "home", (A, "three"): "away", (A, "four"): "local"}
    world.failing = {(A, "three"): "exit 1", (A, "one"): "a|b"}
    plan = planned(world)
    slots = {owner.partition("/")[2]: slot for slot, owner in plan.owners.items()}
    assert plan.maps["apart"] == {
        slots["one"]: f"local|{A}/one|a|b",
        slots["three"]: f"away|{A}/three|exit 1",
        slots["two"]: f"home|{A}/two",
    }


def test_members_are_let_in_and_the_health_is_told() -> None:
    """All of the fleet, also those that cannot be reached; reasons are rows."""
    world = World()
    doors = (
        PeerDoor(name="far", address="10.0.0.3:1", near=3),
        PeerDoor(name="near", address="10.0.0.2:1"),
        PeerDoor(name="lost"),
    )
    world.peers = Peers(me="me", machines=doors, draining=True)
    plan = planned(world)
    assert plan.maps["members"] == dict.fromkeys(["far", "lost", "me", "near"], "1")
    assert plan.maps["health"] == {"draining": "1"}
    assert [peer.name for peer in plan.peers] == ["near", "far"]
    world.peers = Peers(me="me", machines=doors, overloaded=True)
    assert planned(world).maps["health"] == {"overloaded": "1"}


@given(st.lists(st.text("ab-1", min_size=1), min_size=1, unique=True))
def test_machines_have_the_same_number_on_each_of_them(names: list[str]) -> None:
    """HAProxy's rings agree only then; no two machines share one."""
    numbers = server_numbers(names)
    assert numbers == server_numbers(reversed(names))
    assert len(set(numbers.values())) == len(names)
    for me in names:
        others = tuple(PeerDoor(name=n, address="x:1") for n in names if n != me)
        plan = plan_front(
            Catalog(),
            {},
            {},
            domain="localhost",
            previous=None,
            peers=Peers(me=me, machines=others),
        )
        assert {me: plan.number} | {p.name: p.number for p in plan.peers} == numbers


def test_what_leads_nowhere_is_told() -> None:
    """A bad pattern, a bad hostname, a hostname taken: ignored, and said so."""
    world = simple("one", "two")
    world.put(
        (A, "two"),
        cells=((0, 100.0),),
        routes=["a.*.b/*"],
        domains=["not a host", "one.localhost"],
        hostname=True,
    )
    told = planned(world).ignored
    assert len(told) == 3
    assert all("two" in line or "one" in line for line in told)


def test_a_worker_without_deployment_has_no_host() -> None:
    """A draft (secrets put before the first deploy) is not served."""
    world = simple("one")
    world.drop((A, "one"))
    assert planned(world).maps == {name: {} for name in MAPS}
