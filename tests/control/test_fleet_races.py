"""Two machines that decide at once on what each of them sees: the log's order decides, and nothing
that was acknowledged is undone by who came later.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from kythera.control.publish import let_go
from kythera.control.store import put
from kythera.model.records import Deployment, Split
from tests.control.fleets import QUICK, Machines, Member, machines
from tests.control.world import ACCOUNT

pytestmark = pytest.mark.anyio
FEW = msgspec.structs.replace(QUICK, versions_kept_max=2)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return two machines that keep few versions, and two workers."""
    async with machines(tmp_path, "ab", FEW) as made:
        for name in ("one", "two"):
            await made["a"].deploy(name)
        yield made


async def answered(member: Member, path: str, body: Any, found: list[httpx.Response]) -> None:
    """Call an endpoint and keep what it answered."""
    found.append(await member.call("PUT", path, body))


async def behind(fleet: Machines, path: str, first: Any, second: Any) -> tuple[int, int]:
    """Send `first` for worker one to a, then `second` for worker two to b, which does not see it
    before it has written."""
    b = fleet["b"]
    b.catalog  # noqa: B018 - it has read all that there is until now
    b.copy.stopped_at = fleet.log._last
    found: list[httpx.Response] = []
    await answered(fleet["a"], f"scripts/one/{path}", first, found)
    object.__setattr__(b.services, "fleet", alone(b))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answered, b, f"scripts/two/{path}", second, found)
        await anyio.sleep(0.05)
        b.copy.stopped_at = None
    return found[0].status_code, found[1].status_code


def alone(member: Member) -> Any:
    """Return the member's fleet with reads that do not wait, as if they had come a moment before."""
    fleet = member.services.fleet

    class Hasty:
        async def wait(self, *_: Any) -> str:
            return ""

    return type(fleet)(mesh=fleet.mesh, freshness=Hasty())  # type: ignore[arg-type]


async def test_one_route_is_given_away_once(fleet: Machines) -> None:
    """Who wrote later takes its own back and says whose it is."""
    wanted = [{"pattern": "x.test/*"}]
    assert await behind(fleet, "routes", wanted, wanted) == (200, 409)
    catalog = fleet["a"].catalog
    assert [r.pattern for r in catalog.routes(ACCOUNT, "one").routes] == ["x.test/*"]
    assert catalog.routes(ACCOUNT, "two").routes == ()


async def test_one_hostname_is_given_away_once(fleet: Machines) -> None:
    """The same for custom domains, when nobody said that they may be taken over."""
    wanted = {"origins": [{"hostname": "x.test"}]}
    assert await behind(fleet, "domains/records", wanted, wanted) == (200, 409)
    catalog = fleet["b"].catalog
    assert catalog.domains(ACCOUNT, "one").hostnames == ("x.test",)
    assert catalog.domains(ACCOUNT, "two").hostnames == ()


async def test_a_hostname_that_may_be_taken_over_moves_to_the_later(fleet: Machines) -> None:
    """It is looked at again, and taken from whoever had it before."""
    wanted = {"origins": [{"hostname": "x.test"}]}
    later = {**wanted, "override_existing_origin": True}
    assert await behind(fleet, "domains/records", wanted, later) == (200, 200)
    catalog = fleet["a"].catalog
    assert catalog.domains(ACCOUNT, "one").hostnames == ()
    assert catalog.domains(ACCOUNT, "two").hostnames == ("x.test",)


async def test_a_version_that_is_being_let_go_of_is_not_deployed(fleet: Machines) -> None:
    """Another machine has said that it goes, and has not ended it yet."""
    a, b = fleet["a"], fleet["b"]
    version = a.catalog.versions(ACCOUNT, "one")[0]
    await b.deploy("one")
    worker = b.catalog.worker(ACCOUNT, "one")
    assert worker is not None
    await b.services.store.write([put(msgspec.structs.replace(worker, let_go=(version.id,)))])
    split = {"version_id": version.id, "percentage": 100}
    refused = await a.refused("POST", "scripts/one/deployments", {"versions": [split]})
    assert refused[0] == 404


async def test_a_version_that_is_about_to_be_deployed_is_not_let_go_of(fleet: Machines) -> None:
    """Another machine has written that it deploys an old one, and the deployment is on its way."""
    a, b = fleet["a"], fleet["b"]
    first = a.catalog.versions(ACCOUNT, "one")[0]
    await a.deploy("one")
    worker = a.catalog.worker(ACCOUNT, "one")
    assert worker is not None
    held = msgspec.structs.replace(
        worker, held=(first.id,), deployments_made=3, versions_made=worker.versions_made + 1
    )
    newest = msgspec.structs.replace(first, id="11111111-1111-1111-1111-111111111111", number=3)
    await a.services.store.write([put(held), put(newest)])
    await let_go(b.services, "one")
    assert b.catalog.version(ACCOUNT, "one", first.id) is not None
    arriving = Deployment(
        account=ACCOUNT,
        worker="one",
        id="d3",
        number=3,
        created_on="",
        versions=(Split(version_id=first.id, percentage=100),),
    )
    await a.services.store.write([put(arriving)])
    await let_go(b.services, "one")
    assert a.catalog.version(ACCOUNT, "one", first.id) is not None


async def test_old_versions_go_once_whoever_prunes(fleet: Machines) -> None:
    """Both machines prune at the same time: no error, and the newest are there."""
    for _ in range(3):
        await fleet["a"].deploy("one")
    async with anyio.create_task_group() as tasks:
        for member in fleet.all.values():
            tasks.start_soon(let_go, member.services, "one")
    numbers = [version.number for version in fleet["b"].catalog.versions(ACCOUNT, "one")]
    assert numbers == [4, 3]


async def test_what_a_deletion_missed_does_not_hide_a_new_worker(fleet: Machines) -> None:
    """A deployment that another machine wrote into a deletion counts as older than the next."""
    await fleet["a"].ok("DELETE", "services/one")
    orphan = Deployment(account=ACCOUNT, worker="one", id="late", number=7, created_on="")
    await fleet["b"].services.store.write([put(orphan)])
    await fleet["a"].deploy("one")
    deployed = fleet["b"].catalog.deployed(ACCOUNT, "one")
    assert deployed is not None
    assert deployed.number == 8
    assert len(deployed.versions) == 1
