"""Who may call, whose account it is, and what happens when the parts behind are away."""

import anyio
import pytest

from kythera.control.envelope import failed
from kythera.model.errors import StoreUnavailable
from tests.control.world import ACCOUNT, ROOT, TOKEN, WORKERS, World, form

pytestmark = pytest.mark.anyio


async def test_calls_without_the_token_get_error_10000(world: World) -> None:
    """Missing: 401. Wrong: 403. Health needs none."""
    del world.client.headers["authorization"]
    assert (await world.refused("GET", "scripts"))[:2] == (401, 10000)
    for value in ("Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN):
        status, code, _ = await world.refused("GET", "scripts", headers={"authorization": value})
        assert (status in (401, 403), code) == (True, 10000)
    assert (await world.call("GET", "/healthz")).json() == {"healthy": True}
    await world.ok("GET", "scripts", headers={"authorization": f"bearer {TOKEN}"})
    await world.ok("GET", "scripts", headers={"x-auth-key": TOKEN, "x-auth-email": "a@b"})


async def test_there_is_one_account_and_it_is_told(world: World) -> None:
    """`wrangler whoami`, and any command without an account id."""
    assert (await world.ok("GET", f"{ROOT}/user/tokens/verify"))["status"] == "active"
    assert (await world.ok("GET", f"{ROOT}/user"))["email"] == "operator@localhost"
    accounts = await world.ok("GET", f"{ROOT}/accounts?page=1")
    assert [(a["id"], a["name"]) for a in accounts] == [(ACCOUNT, "Kythera")]
    memberships = await world.ok("GET", f"{ROOT}/memberships?page=1")
    assert memberships[0]["account"]["id"] == ACCOUNT
    other = f"{ROOT}/accounts/{'f' * 32}/workers/scripts"
    assert (await world.refused("GET", other))[:2] == (404, 7003)


async def test_unknown_addresses_and_methods_are_named(world: World) -> None:
    """An envelope, as for everything."""
    status, code, text = await world.refused("GET", f"{ROOT}/nothing/here")
    assert (status, code) == (404, 7003)
    assert "/client/v4/nothing/here" in text
    assert (await world.refused("PATCH", f"{ROOT}/user"))[0] == 405


async def test_reads_go_on_when_the_log_is_away_and_writes_say_so(world: World) -> None:
    """Fail static: 503 after the deadline, for writes alone."""
    await world.deploy()
    world.log.pause()
    assert (await world.ok("GET", "services/hello"))["id"] == "hello"
    response = await world.call("PUT", "scripts/hello", files=form())
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["errors"][0]["code"] == 10013
    assert (await world.call("GET", "/healthz")).status_code == 503
    world.log.resume()
    await world.deploy()
    assert (await world.call("GET", "/healthz")).status_code == 200


async def test_a_write_that_cannot_be_read_back_says_so(world: World) -> None:
    """The copy stands still: the call ends with 503 after its deadline, not with a lie."""
    await world.deploy()
    world.copy.stopped_at = world.log._last
    response = await world.call("PUT", "scripts/other", files=form())
    assert response.status_code == 503
    assert "takes effect as soon as" in response.json()["errors"][0]["message"]
    world.copy.stopped_at = None
    await world.ok("GET", "services/hello")


async def test_before_the_copy_is_there_every_call_says_what_is_missing(world: World) -> None:
    """The API may start before the agent has made the copy."""
    world.copy.absent = True
    response = await world.call("GET", "scripts")
    assert response.status_code == 503
    assert "copy" in response.json()["errors"][0]["message"]
    assert (await world.call("GET", "/healthz")).status_code == 503


async def test_a_write_waits_until_the_copy_shows_it(world: World) -> None:
    """Read-your-writes: the answer comes when the copy has caught up, and not before."""
    world.copy.stopped_at = world.log._last
    answered = anyio.Event()

    async def deploy() -> None:
        await world.deploy()
        answered.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deploy)
        while world.log._last < world.copy.stopped_at + 3:
            await anyio.lowlevel.checkpoint()
        assert not answered.is_set()
        world.copy.stopped_at = None
        with anyio.fail_after(2):
            await answered.wait()
    await world.ok("GET", "services/hello")


async def test_what_nobody_expected_is_told_to_the_journal_alone(world: World) -> None:
    """A fault of ours: 500, an envelope without details, a traceback for the operator."""

    def broken() -> None:
        raise ZeroDivisionError("a fault")

    world.services.store.catalog = broken  # type: ignore[method-assign, assignment]
    response = await world.call("GET", "scripts")
    assert response.status_code == 500
    assert "a fault" not in response.text
    assert "ZeroDivisionError" in world.journal.getvalue()
    world.journal.truncate(0)
    world.journal.seek(0)


async def test_bodies_beyond_their_limit_are_refused_as_too_large(world: World) -> None:
    """413 with 10027, after the whole of it has been read."""
    body = b" " * (world.services.platform.limits.json_body_bytes_max + 1)
    response = await world.client.put(f"{WORKERS}/scripts/hello/secrets", content=body)
    assert response.status_code == 413
    assert response.json()["errors"][0]["code"] == 10027


def test_an_unavailable_store_is_a_503_with_the_reason() -> None:
    """What the log says is passed on."""
    response = failed(StoreUnavailable("The log is away.", remedy="Wait."))
    assert response.status_code == 503
    assert b"The log is away. Wait." in response.body
