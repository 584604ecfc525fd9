"""The audit: every change names who made it, and nothing that must stay secret."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kythera.control.audit import DOUBT, Trail
from kythera.control.audit_entries import _bounded, entry_of
from kythera.control.caller import Caller, called_by
from kythera.control.join_tokens import create
from kythera.control.store import Store, put
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Audit, Domains, Machine, Worker, encode
from tests.control.fleets import Machines, machines
from tests.control.mesh_doors import found_fleet
from tests.control.tokens import TOKENS, bearer, logs, token
from tests.control.world import ACCOUNT, HELLO, QUICK, World, form, world_at

pytestmark = pytest.mark.anyio
KYTHERA = f"/client/v4/accounts/{ACCOUNT}/kythera"
TEXT = "a text nobody may see"


async def last(world: World) -> dict[str, Any]:
    """Return the newest record."""
    return (await logs(world))[-1]


async def test_a_deploy_says_who_what_when_from_where_before_and_after(world: World) -> None:
    """Goal: the whole of it, for the change that matters most."""
    text = await token(world, "deploy", name="ci", workers=["hello"])
    mine = {"headers": {**bearer(text), "user-agent": "wrangler/4.86.0"}}
    await world.ok("PUT", "scripts/hello", files=form(), **mine)
    world.clock.time += 60
    await world.ok("PUT", "scripts/hello", files=form(HELLO + "// 2"), **mine)
    second, first = world.catalog.versions(ACCOUNT, "hello")
    _, _, record = await logs(world)
    assert record["actor"] == {
        "id": text.split("_")[1],
        "email": "ci",
        "ip": "127.0.0.1",
        "type": "token",
    }
    assert record["when"] == "2026-11-18T11:07:40.000000Z"
    assert (record["action"]["type"], record["resource"]["id"]) == ("deploy", "worker hello")
    assert record["interface"] == "wrangler/4.86.0"
    assert record["metadata"] == {"machine": "m", "worker": "hello"}
    assert record["oldValueJson"]["serves"] == {first.id: 100}
    assert record["newValueJson"]["serves"] == {second.id: 100}
    assert record["newValueJson"]["number"] == 2
    assert record["oldValueJson"]["code"] != record["newValueJson"]["code"]


async def test_each_kind_of_change_leaves_one_record(world: World) -> None:
    """Goal: nothing is changed silently. Method: one of each, and what its record says."""
    await world.deploy()
    await world.services.store.write([put(Machine(name="far"))])
    secret = {"name": "S", "text": TEXT, "type": "secret_text"}
    split = {"strategy": "percentage", "versions": []}
    changes: list[tuple[str, str, Any, str, dict[str, Any]]] = [
        ("PUT", "scripts/hello/secrets", secret, "set secret", {"secrets": ["S"]}),
        (
            *("PUT", "scripts/hello/secrets", {**secret, "text": "other"}, "set secret"),
            {"secrets with a new text": ["S"]},
        ),
        ("DELETE", "scripts/hello/secrets/S", None, "delete secret", {}),
        (
            "PATCH",
            "scripts/hello/script-settings",
            {"logpush": True},
            "change settings",
            {"logpush": True},
        ),
        ("POST", "scripts/hello/subdomain", {"enabled": False}, "change hostname", {}),
        (
            "PUT",
            "scripts/hello/routes",
            [{"pattern": "a.test/*"}],
            "set routes",
            {"routes": ["a.test/*"]},
        ),
        (
            "PUT",
            "scripts/hello/domains/records",
            {"origins": [{"hostname": "b.test"}]},
            "set domains",
            {"domains": ["b.test"]},
        ),
        ("POST", "scripts/hello/deployments", split, "deploy", {}),
        ("POST", "scripts/hello/tails", {}, "watch", {}),
        (
            "PATCH",
            f"{KYTHERA}/machines/far",
            {"state": "draining"},
            "change machine",
            {"state": "draining"},
        ),
        ("DELETE", f"{KYTHERA}/machines/far", None, "remove machine", {}),
        ("POST", TOKENS, {"name": "x", "scopes": ["read"]}, "make API token", {"scopes": ["read"]}),
        ("DELETE", f"{TOKENS}/x", None, "revoke API token", {}),
        ("DELETE", "services/hello", None, "delete worker", {}),
    ]
    for n, (method, path, body, does, after) in enumerate(changes, 2):
        if does == "deploy":
            newest = world.catalog.versions(ACCOUNT, "hello")[-1].id
            body["versions"] = [{"version_id": newest, "percentage": 100}]
        await world.ok(method, path, body, params={"force": "true"})
        record = await last(world)
        assert record["action"]["type"] == does
        assert len(await logs(world)) == n
        assert after.items() <= record["newValueJson"].items(), record
        assert record["actor"]["email"] == "root"
    told = json.dumps(await logs(world))
    assert TEXT not in told
    assert "digest" not in told
    assert "sealed" not in told
    assert "worker hello" in told
    assert "machine far" in told


async def test_deleting_a_worker_says_what_there_was(world: World) -> None:
    """Its versions, what served, where it was reached."""
    await world.deploy()
    await world.upload()
    await world.ok("PUT", "scripts/hello/domains/records", {"origins": [{"hostname": "b.test"}]})
    await world.ok("DELETE", "services/hello")
    record = await last(world)
    assert len(record["oldValueJson"]["versions"]) == 2
    assert record["oldValueJson"]["domains"] == ["b.test"]
    assert record["newValueJson"] == {}


async def test_what_changes_nothing_or_is_refused_leaves_no_record(world: World) -> None:
    """Reads, refusals, and a write of what is there already."""
    await world.deploy()
    before = len(await logs(world))
    await world.ok("GET", "scripts")
    await world.refused("PUT", "scripts/hello", files=form("throw 1"))
    await world.ok("PATCH", "scripts/hello/script-settings", {"logpush": False})
    assert len(await logs(world)) == before


async def test_what_the_platform_does_by_itself_names_nobody(world: World) -> None:
    """Pruning old versions is no change that somebody made."""
    few = msgspec.structs.replace(world.services.platform.limits, versions_kept_max=2)
    object.__setattr__(
        world.services, "platform", msgspec.structs.replace(world.services.platform, limits=few)
    )
    for n in range(4):
        await world.deploy(code=f"{HELLO}// {n}")
    assert len(world.catalog.versions(ACCOUNT, "hello")) == 2
    assert [r["action"]["type"] for r in await logs(world)] == ["deploy"] * 4


async def test_a_hostname_that_is_taken_over_is_said_of_both(world: World) -> None:
    """The other worker's loss stands beside the gain."""
    for name in ("one", "two"):
        await world.deploy(name)
    wanted = {"origins": [{"hostname": "b.test"}], "override_existing_origin": True}
    await world.ok("PUT", "scripts/one/domains/records", wanted)
    await world.ok("PUT", "scripts/two/domains/records", wanted)
    record = await last(world)
    assert record["oldValueJson"] == {"one: domains": ["b.test"]}
    assert record["newValueJson"] == {"domains": ["b.test"]}


async def test_the_log_of_changes_can_be_asked_in_parts(world: World) -> None:
    """By worker, by time, newest first or last, by pages that end."""
    await world.deploy("one")
    world.clock.time += 100
    await world.deploy("two")
    since = "2026-11-18T11:07:00Z"
    assert [r["metadata"]["worker"] for r in await logs(world)] == ["one", "two"]
    assert [r["metadata"]["worker"] for r in await logs(world, since=since)] == ["two"]
    assert [r["metadata"]["worker"] for r in await logs(world, before=since)] == ["one"]
    assert [r["metadata"]["worker"] for r in await logs(world, worker="one")] == ["one"]
    newest = await logs(world, direction="desc", per_page=1)
    assert [r["metadata"]["worker"] for r in newest] == ["two"]
    assert await logs(world, page=2) == []
    path = f"/client/v4/accounts/{ACCOUNT}/audit_logs"
    assert (await world.refused("GET", path, params={"since": "noon"}))[0] == 400


# -- bounded, numbered, together with the change ------------------------------------------------------


async def changes(world: World, first: int, n: int) -> None:
    """Make some changes to one worker."""
    for number in range(first, first + n):
        body = {"tags": [str(number)]}
        await world.ok("PATCH", "scripts/hello/script-settings", body)


def numbers(world: World) -> list[int]:
    """Return the numbers of the records that are kept."""
    found = (r for r in world.catalog.records.values() if isinstance(r, Audit))
    return sorted(record.number for record in found)


async def test_the_oldest_records_go_and_the_log_does_not_grow(tmp_path: Path) -> None:
    """Goal: bounded without pruning. Method: more changes than places; a newer process goes on."""
    limits = msgspec.structs.replace(QUICK, audit_kept_max=3)
    async with world_at(tmp_path, limits) as world:
        await world.deploy()
        await changes(world, 0, 6)
        assert numbers(world) == [5, 6, 7]
        assert [r["newValueJson"]["tags"] for r in await logs(world)] == [["3"], ["4"], ["5"]]
        services = world.services
        trail = Trail("m", world.log, limits, world.clock, services.journal)
        services.store.trail = trail
        await changes(world, 6, 1)
        assert numbers(world) == [6, 7, 8]


async def test_a_process_whose_copy_is_behind_overwrites_no_record(world: World) -> None:
    """It is told of a conflict, catches up, and goes on after the newest."""
    await world.deploy()
    before = world.log._last
    await changes(world, 0, 3)
    stale = Store(world.log, world.copy, QUICK)
    world.copy.stopped_at = before
    trail = Trail("m", world.log, QUICK, world.clock, world.services.journal)
    stale.trail = trail
    worker = stale.catalog()
    assert worker is not None

    async def catch_up() -> None:
        await anyio.sleep(0.02)
        world.copy.stopped_at = None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(catch_up)
        with called_by(Caller(name="ci", does="change machine")):
            await stale.write([put(Machine(name="x"), 0)])
    assert numbers(world) == [1, 2, 3, 4, 5]
    assert (await last(world))["actor"]["email"] == "ci"


async def test_places_beyond_a_smaller_limit_are_given_up(world: World) -> None:
    """An operator who lowers `audit_kept_max` is obeyed at the next start."""
    await world.deploy()
    await changes(world, 0, 5)
    limits = msgspec.structs.replace(QUICK, audit_kept_max=2)
    trail = Trail("m", world.log, limits, world.clock, world.services.journal)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trail.keep, world.services.store)
        with anyio.fail_after(5):
            while len(numbers(world)) > 2:
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


async def test_the_record_stands_before_what_takes_effect(world: World) -> None:
    """Goal: no deployment without its record. Method: the order of the log."""
    await world.deploy()
    order = [entry.key.partition(".")[0] for entry in world.log._after(0)]
    assert order.index("audit") == order.index("worker") + 1
    assert order.index("audit") < order.index("deployment")


class Refusing:
    """Makes a log that is away for records of one kind."""

    def __init__(self, world: World, kind: str) -> None:
        self.kind = kind
        self._append_really = world.log.append
        world.log.append = self._append  # type: ignore[method-assign]

    async def _append(self, key: str, value: bytes | None, **more: Any) -> int:
        if self.kind and key.startswith(self.kind):
            raise StoreUnavailable("The log is away.")
        return await self._append_really(key, value, **more)


async def test_a_record_that_the_log_did_not_take_is_not_lost(world: World) -> None:
    """Goal: told to the caller, in the journal at once, written when the log is back; counted."""
    await world.deploy()
    log = Refusing(world, "audit.")
    trail = world.services.store.trail
    assert trail is not None
    response = await world.call("PATCH", "scripts/hello/script-settings", {"tags": ["x"]})
    assert response.status_code == 503
    assert "audit record was not yet" in response.json()["errors"][0]["message"]
    assert '"audit_record_late"' in world.journal.getvalue()
    assert '"tags": ["x"]' in world.journal.getvalue()
    response = await world.call("PUT", "scripts/other", files=form())
    assert response.status_code == 503
    assert world.catalog.deployed(ACCOUNT, "other") is None, "nothing takes effect without it"
    assert len(await logs(world)) == 1
    log.kind = ""
    await trail.catch_up(world.services.store)
    found = await logs(world)
    assert [r["resource"]["id"] for r in found[1:]] == ["worker hello", "worker other"]
    assert trail.counts == {"late": 2, "written_late": 2}


async def test_a_change_that_may_have_been_written_leaves_a_record_that_says_so(
    world: World,
) -> None:
    """The log did not answer: whether it holds is not known, who tried is."""
    await world.deploy()
    log = Refusing(world, "worker.")
    await world.call("PATCH", "scripts/hello/script-settings", {"tags": ["x"]})
    trail = world.services.store.trail
    assert trail is not None
    log.kind = ""
    await trail.catch_up(world.services.store)
    record = await last(world)
    assert record["action"]["info"] == DOUBT
    assert record["newValueJson"] == {"tags": ["x"]}


async def test_records_that_wait_are_bounded(world: World) -> None:
    """The oldest leaves memory, and the journal has it."""
    limits = msgspec.structs.replace(QUICK, audit_late_max=2)
    trail = Trail("m", world.log, limits, world.clock, world.services.journal)
    with called_by(Caller(name="ci", does="deploy", worker="hello")):
        entry = trail.entry([], Catalog())
    assert entry is not None
    for _ in range(3):
        trail.late(entry)
    assert trail.counts == {"late": 3, "lost": 1}
    assert world.journal.getvalue().count("audit_record_late") == 3
    world.journal.truncate(0)
    world.journal.seek(0)


# -- several machines -----------------------------------------------------------------------------------


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return two machines, of which `a` holds the authority."""
    async with machines(tmp_path, "ab") as made:
        found_fleet(made, tmp_path)
        yield made


async def test_every_machine_shows_what_was_asked_of_any(fleet: Machines) -> None:
    """In the log's order, whatever their clocks say."""
    fleet["b"].clock.time -= 7_200
    await fleet["a"].deploy("one")
    await fleet["b"].deploy("two")
    await fleet["a"].deploy("three")
    for member in (fleet["a"], fleet["b"]):
        found = await logs(member)
        assert [r["metadata"]["worker"] for r in found] == ["one", "two", "three"]
        assert [r["metadata"]["machine"] for r in found] == ["a", "b", "a"]


async def test_machines_that_write_at_once_do_not_wait_for_each_other(fleet: Machines) -> None:
    """Each has places of its own."""
    async with anyio.create_task_group() as tasks:
        for n in range(5):
            for name in "ab":
                tasks.start_soon(fleet[name].deploy, f"{name}{n}")
    assert len(await logs(fleet["a"])) == 10


async def test_what_another_machine_passes_on_names_who_asked_it(fleet: Machines) -> None:
    """Goal: identity is kept. Method: a join token asked of b, which a has to make."""
    text = await token(fleet["a"], "admin", name="anna")
    await fleet["b"].ok("POST", f"{KYTHERA}/tokens", {"life_s": 60}, headers=bearer(text))
    record = await last(fleet["a"])
    assert record["action"]["type"] == "make join token"
    assert record["actor"]["email"] == "anna"
    assert record["actor"]["ip"] == "127.0.0.1"
    assert record["resource"]["id"].startswith("join token ")


async def test_what_a_machine_asks_by_itself_names_the_machine(fleet: Machines) -> None:
    """Nobody's token was involved."""
    await create(fleet["b"].services, 60)
    record = await last(fleet["a"])
    assert (record["actor"]["email"], record["actor"]["type"]) == ("machine b", "machine")


# -- pure -------------------------------------------------------------------------------------------------


anything = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), anything, max_size=5), st.integers(200, 4_096))
def test_what_a_record_says_is_bounded(facts: dict[str, Any], bytes_max: int) -> None:
    """Whatever settings hold: it can be written, and is no longer than it may be."""
    assert len(msgspec.json.encode(_bounded(facts, bytes_max))) <= bytes_max


def test_long_settings_are_cut_and_said_to_be() -> None:
    """The reader learns that there was more."""
    tags = [f"{n:300}" for n in range(60)]
    before = Worker(account=ACCOUNT, name="w", tag="", created_on="", modified_on="")
    after = msgspec.structs.replace(before, tags=tuple(tags))
    catalog = Catalog()
    catalog.apply(before.key(), encode(before))
    caller = Caller(name="ci", does="change settings", worker="w")
    entry = entry_of(caller, [(after.key(), after)], catalog, "now", 64 * 1024)
    assert entry.after["tags"][-1] == f"… and {len(tags) - 50} more"
    assert len(entry.after["tags"][0]) == 200


def test_a_record_of_another_workers_loss_names_it() -> None:
    """Facts of the worker that is spoken of need no name."""
    mine, other = Domains(account="a", worker="w"), Domains(account="a", worker="o")
    changed = [
        (each.key(), msgspec.structs.replace(each, hostnames=("h",))) for each in (mine, other)
    ]
    entry = entry_of(Caller(name="c", worker="w"), changed, Catalog(), "now", 4_096)
    assert entry.after == {"domains": ["h"], "o: domains": ["h"]}
