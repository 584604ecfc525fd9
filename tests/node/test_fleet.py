"""What an agent makes of the records: its place among the other machines."""

from pathlib import Path

import msgspec
import pytest

from kythera.distribute import cores, membership
from kythera.distribute.sources import LOG, Source, candidates
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.membership import Membership, Peer
from kythera.model.platform import Platform
from kythera.model.records import Core, Heartbeat, Machine, Record, encode
from kythera.node.fleet import FRESH_MS, Fleet
from kythera.node.status import MachineFacts


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.seconds

    def monotonic(self) -> float:
        """Return the same."""
        return self.seconds


class World:
    """One machine's view: a folder, records, a clock."""

    def __init__(self, folder: Path, me: str = "m1", site: str = "home") -> None:
        self.layout = Layout(folder)
        self.catalog = Catalog()
        self.clock = HandClock()
        platform = Platform(account_id="a" * 32, machine=me, site=site)
        self.fleet = Fleet(self.layout, platform, self.catalog, self.clock)

    def write(self, *records: Record) -> None:
        """Apply records."""
        for record in records:
            self.catalog.apply(record.key(), encode(record))

    def shown(self) -> MachineFacts:
        """Return what an operator would see."""
        facts = MachineFacts()
        self.fleet.show_now(facts)
        return facts


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a machine that nobody has recorded yet."""
    return World(tmp_path)


def machine(name: str, site: str = "home", **more: object) -> Machine:
    """Return a machine's record."""
    return msgspec.structs.replace(
        Machine(name=name, site=site, mesh=f"192.0.2.1:7{name[1:]}"), **more
    )


def test_a_machine_that_knows_nothing_is_a_fleet_of_one(world: World) -> None:
    """It holds the log, follows it, lets nobody in but itself, and has no lag to tell."""
    assert world.fleet.is_core()
    assert candidates(world.fleet.facts()) == (LOG,)
    assert world.fleet.peers().machines == ()
    assert not world.fleet.is_removed()
    assert world.fleet.is_fresh()
    shown = world.shown()
    assert (shown.core, shown.relay, shown.lag_ms, shown.state) == (True, False, None, "active")


def test_a_machine_that_joined_holds_no_log_until_it_is_told(world: World) -> None:
    """Without its records it asks those it was told of."""
    peers = (Peer(name="m2", mesh="192.0.2.2:7"),)
    membership.write(world.layout, Membership(founder=False, peers=peers))
    assert not world.fleet.is_core()
    world.write(machine("m1"), machine("m2"), Core(machines=("m1", "m2", "m3"), epoch=2))
    assert world.fleet.is_core()


def test_core_machines_that_all_lost_their_copies_let_each_other_in(world: World) -> None:
    """Without records the machines it was told of are its peers; with records those alone are."""
    peers = (Peer(name="m2", mesh="192.0.2.2:7"), Peer(name="m9", mesh="192.0.2.9:7"))
    membership.write(world.layout, Membership(founder=True, peers=peers))
    assert [door.name for door in world.fleet.peers().machines] == ["m2", "m9"]
    world.write(machine("m1"), machine("m2"))
    assert [door.name for door in world.fleet.peers().machines] == ["m2"]


def test_others_are_reached_by_links_first_and_a_machine_without_address_is_let_in(
    world: World,
) -> None:
    """The front door lets every member in and forwards to those it can reach."""
    world.write(machine("m1"), machine("m2"), machine("m3", "far", mesh=""))
    world.layout.links.parent.mkdir(parents=True)
    world.layout.links.write_text('{"m2": "127.0.0.1:4"}')
    doors = {door.name: door for door in world.fleet.peers().machines}
    assert (doors["m2"].address, doors["m2"].near) == ("127.0.0.1:4", 0)
    assert (doors["m3"].address, doors["m3"].near) == ("", 1)
    world.fleet.tunnels = (cores.Tunnel("log-2-m2", "127.0.0.1:9", "m2", "192.0.2.9:7", "route"),)
    (tunnel,) = world.fleet.front_tunnels()
    assert (tunnel.address, tunnel.service) == ("127.0.0.1:4", "route")


def test_who_was_removed_lets_nobody_in_and_serves_nobody_else(world: World) -> None:
    """Others are recorded and this machine is not."""
    world.write(machine("m1"), machine("m2"))
    assert [door.name for door in world.fleet.peers().machines] == ["m2"]
    world.catalog.apply("machine.m1", None)
    assert world.fleet.is_removed()
    assert world.fleet.peers().draining, "who was removed is to be asked for nothing new"
    assert world.fleet.peers().machines == ()
    assert world.shown().state == "removed"


def test_one_machine_of_a_site_without_the_log_is_its_relay(tmp_path: Path) -> None:
    """Seen from each of three machines, the same one is."""
    records = [machine("m1", "a", core=True), *(machine(f"m{n}", "b") for n in (2, 3, 4))]
    relays = []
    sources = set()
    for number in (2, 3, 4):
        world = World(tmp_path / str(number), f"m{number}", "b")
        membership.write(world.layout, Membership(founder=False))
        world.write(*records, Core(machines=("m1",)))
        relays += [world.fleet.me] if world.fleet.is_relay() else []
        sources.add(candidates(world.fleet.facts())[0])
    (relay,) = relays
    assert sources == {LOG, Source(relay)}


def test_a_draining_machine_says_so_to_its_front_door(world: World) -> None:
    """And to whoever looks."""
    world.write(machine("m1", state="draining"), machine("m2"))
    assert world.fleet.peers().draining
    assert world.shown().state == "draining"


def test_lag_grows_while_no_heartbeat_comes(world: World) -> None:
    """Told only where there are others; a copy without heartbeats is not fresh."""
    world.write(machine("m1"), machine("m2"))
    assert not world.fleet.is_fresh()
    for number in range(3):
        at_ms = round(world.clock.seconds * 1000)
        world.write(Heartbeat(machine="m2", number=number, at_ms=at_ms))
        world.fleet.heard()
        world.clock.seconds += 1
    assert world.fleet.is_fresh()
    assert world.shown().lag_ms == 1_000
    world.clock.seconds += FRESH_MS / 1000
    assert not world.fleet.is_fresh()
    assert world.shown().lag_ms == 1_000 + FRESH_MS
