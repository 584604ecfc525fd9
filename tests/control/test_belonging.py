"""A machine's own place in the fleet: its record, whom it would ask, the authority's key."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest

from kythera.control.belonging import ensure_machine, keep_belonging, own_changes
from kythera.control.services import Services
from kythera.control.store import Change, end, put
from kythera.distribute import membership
from kythera.distribute.authority import life_of
from kythera.ground.clock import SystemClock
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.membership import Membership, Peer
from kythera.model.platform import Platform
from kythera.model.records import Core, Machine, Record, encode
from tests.control.fleets import Machines, machines
from tests.control.mesh_doors import found_fleet, write
from tests.distribute.identities import DAY_S, Authority

pytestmark = pytest.mark.anyio
HERE = Platform(account_id="", machine="a", site="one", mesh="10.0.0.1:7", api="127.0.0.1:1")
FOUNDER, JOINED = Membership(founder=True), Membership(founder=False)


def catalog_of(*records: Record) -> Catalog:
    """Return a catalogue of these records."""
    catalog = Catalog()
    for record in records:
        catalog.apply(record.key(), encode(record))
    return catalog


def written(changes: list[Change]) -> dict[str, Record | None]:
    """Return what changes write, by key."""
    return {change.key: change.record for change in changes}


def test_a_founder_writes_itself_and_that_it_holds_the_log() -> None:
    """Goal: a fleet of one. Method: an empty catalogue."""
    found = written(own_changes(catalog_of(), HERE, FOUNDER, "w1", 0.0))
    machine, core = found["machine.a"], found["core.log"]
    assert isinstance(machine, Machine)
    assert (machine.mesh, machine.site, machine.workerd, machine.core) == (
        "10.0.0.1:7",
        "one",
        "w1",
        True,
    )
    assert isinstance(core, Core)
    assert core.machines == ("a",)


def test_what_has_not_changed_is_not_written() -> None:
    """Goal: no write at each start. Method: apply the first changes, ask again."""
    first = own_changes(catalog_of(), HERE, FOUNDER, "w1", 0.0)
    catalog = catalog_of(*(change.record for change in first if change.record))
    assert own_changes(catalog, HERE, FOUNDER, "w1", 99.0) == []


def test_what_has_changed_is_written_and_nothing_else() -> None:
    """Goal: upgrades and new addresses are seen; state and labels stay. Method: change some."""
    before = Machine(name="a", state="draining", labels={"k": "v"}, joined_on="x", token="t")
    moved = msgspec.structs.replace(HERE, mesh_advertised="192.0.2.1:7")
    found = written(own_changes(catalog_of(before), moved, JOINED, "w2", 0.0))
    machine = found["machine.a"]
    assert isinstance(machine, Machine)
    assert (machine.mesh, machine.workerd) == ("192.0.2.1:7", "w2")
    assert (machine.state, machine.labels, machine.joined_on, machine.token) == (
        "draining",
        {"k": "v"},
        "x",
        "t",
    )
    assert list(found) == ["machine.a"]


@pytest.mark.parametrize("member", [FOUNDER, JOINED, None])
def test_a_removed_machine_does_not_come_back_by_itself(member: Membership | None) -> None:
    """Goal: removed is out. Method: a fleet with a core, and no record of this machine."""
    catalog = catalog_of(Core(machines=("b",)), Machine(name="b"))
    assert own_changes(catalog, HERE, member, "w", 0.0) == []


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return a fleet of two with identities; `a` is core."""
    async with machines(tmp_path, "ab") as made:
        found_fleet(made, tmp_path)
        yield made


def layout_of(services: Services) -> Layout:
    """Return where a machine's identity lies."""
    assert services.fleet.layout is not None
    return services.fleet.layout


async def test_a_machine_remembers_the_core_machines(fleet: Machines) -> None:
    """Goal: a machine whose copy is lost knows whom to ask. Method: let the loop look once."""
    services = fleet["b"].services
    layout = layout_of(services)
    membership.write(layout, JOINED)

    def remembered() -> bool:
        known = membership.read(layout)
        return known is not None and known.peers == (Peer(name="a", mesh="a.test:7443"),)

    await until(services, remembered)


async def until(services: Services, holds: object) -> None:
    """Run a machine's loop until something holds."""
    assert callable(holds)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_belonging, services)
            while not holds():
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_who_becomes_core_fetches_the_authority_and_who_was_lets_go(
    fleet: Machines,
) -> None:
    """Goal: the authority is where the log is. Method: name `b` core beside `a`, then alone."""
    a, b = fleet["a"], fleet["b"]
    membership.write(layout_of(b.services), JOINED)
    await write(a, put(Core(machines=("a", "b"), epoch=2)))
    await until(b.services, layout_of(b.services).ca_key.exists)
    key = layout_of(a.services).ca_key.read_bytes()
    assert layout_of(b.services).ca_key.read_bytes() == key
    await write(a, put(Core(machines=("b",), epoch=3)))
    await until(a.services, lambda: not layout_of(a.services).ca_key.exists())
    assert layout_of(b.services).ca_key.read_bytes() == key


async def test_the_authority_outlives_a_move_to_others_alone(fleet: Machines) -> None:
    """Goal: the last key is never thrown away. Method: `b` alone is core, and slow to fetch it."""
    a, b = fleet["a"], fleet["b"]
    membership.write(layout_of(b.services), JOINED)
    await write(a, put(Core(machines=("b",), epoch=2)))

    def asked() -> bool:
        return ("a", "b", "/authority/held") in fleet.network.calls

    await until(a.services, asked)
    assert layout_of(a.services).ca_key.exists()
    await until(b.services, layout_of(b.services).ca_key.exists)
    await until(a.services, lambda: not layout_of(a.services).ca_key.exists())


async def test_a_key_that_is_not_the_fleets_is_not_kept(fleet: Machines) -> None:
    """Goal: a wrong key would split the fleet. Method: the other core machine has another's."""
    a, b = fleet["a"], fleet["b"]
    membership.write(layout_of(b.services), JOINED)
    right = layout_of(a.services).ca_key.read_bytes()
    write_private(layout_of(a.services).ca_key, Authority("other").key)
    await write(a, put(Core(machines=("a", "b"), epoch=2)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_belonging, b.services)
        while ("b", "a", "/authority") not in fleet.network.calls:
            await anyio.sleep(0.01)
        assert not layout_of(b.services).ca_key.exists()
        write_private(layout_of(a.services).ca_key, right)
        tasks.cancel_scope.cancel()
    await until(b.services, layout_of(b.services).ca_key.exists)


async def test_a_core_machine_renews_its_own_certificate_in_time(fleet: Machines) -> None:
    """Goal: nobody has to think of it. Method: let most of its life pass by the clock."""
    services = fleet["a"].services
    layout = layout_of(services)
    before = life_of(layout.machine_certificate.read_bytes())
    fleet["a"].clock.time = SystemClock().now() + DAY_S * 0.7

    def renewed() -> bool:
        return life_of(layout.machine_certificate.read_bytes()).ends > before.ends

    await until(services, renewed)


async def test_a_machine_that_was_removed_is_told_so(fleet: Machines) -> None:
    """Goal: it knows. Method: remove it, then bring its record up to date."""
    services = fleet["b"].services
    membership.write(layout_of(services), JOINED)
    assert await ensure_machine(services, "w")
    await write(fleet["a"], end("machine.b"))
    assert not await ensure_machine(services, "w")
    assert fleet["a"].catalog.machine("b") is None
