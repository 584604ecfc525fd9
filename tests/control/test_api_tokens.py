"""API tokens: made, used for what they are for, ended; on one machine and on several."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.control.access import Gate
from kythera.control.api_proofs import WrongToken, digest
from kythera.control.api_tokens import KEPT_S, read_token
from kythera.control.grounds import Hosts
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import ApiToken, encode
from tests.control.fleets import Machines, machines
from tests.control.tokens import TOKENS, bearer, is_forbidden, token
from tests.control.world import ACCOUNT, HELLO, ROOT, TOKEN, World, form

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0
SECRET = {"name": "S", "text": "a text nobody may see", "type": "secret_text"}


def kept(world: World) -> list[ApiToken]:
    """Return the records of tokens."""
    return [r for r in world.catalog.records.values() if isinstance(r, ApiToken)]


async def status_with(world: World, text: str, method: str = "GET", path: str = "scripts") -> int:
    """Return how a call with this token is answered."""
    return (await world.call(method, path, headers=bearer(text))).status_code


async def test_a_token_is_shown_once_and_kept_as_a_digest(world: World) -> None:
    """Goal: who reads every record learns no token. Method: look for its text in all of them."""
    text = await token(world, "deploy", workers=["shop"])
    (record,) = kept(world)
    assert record.digest == digest(text)
    assert (record.scopes, record.workers, record.created_by) == (("deploy",), ("shop",), "root")
    secret = text.rpartition("_")[2]
    assert len(secret) * 4 == 256
    for value in map(encode, world.catalog.records.values()):
        assert secret.encode() not in value
    assert secret not in json.dumps(await world.ok("GET", TOKENS))
    assert secret not in world.journal.getvalue()
    assert await status_with(world, text) == 200


async def test_what_is_almost_a_token_opens_nothing(world: World) -> None:
    """One digit more, less or other, another's id, the digest itself, the id alone."""
    text = await token(world, "read")
    other = await token(world, "read", name="other")
    head, token_id, secret = text.split("_")
    wrong = [
        *(text[:-1], f"{text}0", text[:-1] + ("0" if text[-1] != "0" else "1"), text.upper()),
        *(f"{head}_{other.split('_')[1]}_{secret}", f"{head}_{token_id}_{digest(text)}"),
        *(token_id, digest(text), TOKEN[:-1]),
    ]
    object.__setattr__(world.services.wrong_tokens, "_limits", Limits(wrong_tokens_free=99))
    for each in wrong:
        assert await status_with(world, each) == 403, each
    assert world.services.wrong_tokens.counts["unknown"] == len(wrong)


async def test_a_token_ends_when_it_was_said_to(world: World) -> None:
    """By this machine's clock; the answer says why."""
    text = await token(world, "read", life_s=10)
    assert await status_with(world, text) == 200
    world.clock.time += 9.9
    assert await status_with(world, text) == 200
    world.clock.time += 0.1
    response = await world.call("GET", "scripts", headers=bearer(text))
    assert response.status_code == 403
    assert "has expired" in response.text
    (shown,) = await world.ok("GET", TOKENS)
    assert shown["status"] == "expired"
    assert world.services.wrong_tokens.counts["expired"] == 1


async def test_a_revoked_token_opens_nothing_any_more(world: World) -> None:
    """By name or by id; it stays in the list for a while, then its record goes."""
    one, two = await token(world, "read"), await token(world, "admin", name="boss")
    await world.ok("DELETE", f"{TOKENS}/ci")
    await world.ok("DELETE", f"{TOKENS}/{two.split('_')[1]}")
    for text in (one, two):
        response = await world.call("GET", "scripts", headers=bearer(text))
        assert response.status_code == 403
        assert "was revoked" in response.text
    assert [t["status"] for t in await world.ok("GET", TOKENS)] == ["revoked", "revoked"]
    again = await token(world, "read")  # its name is free again
    assert await status_with(world, again) == 200
    world.clock.time += KEPT_S + 1
    await token(world, "read", name="later", life_s=None)
    assert sorted(t.name for t in kept(world)) == ["ci", "later"]
    assert (await world.refused("DELETE", f"{TOKENS}/nobody"))[:2] == (404, 10321)


async def test_two_good_tokens_never_share_a_name(world: World) -> None:
    """The audit would not tell them apart."""
    await token(world, "read")
    body = {"name": "ci", "scopes": ["read"]}
    status, code, text = await world.refused("POST", TOKENS, body)
    assert (status, code) == (409, 10322)
    assert "api-token revoke ci" in text


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "root", "scopes": ["read"]}, "cannot be a token's name"),
        ({"name": "a b", "scopes": ["read"]}, "cannot be a token's name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "one scope at least"),
        ({"name": "x", "scopes": ["write"]}, "There are: read, deploy"),
        ({"name": "x", "scopes": [{}]}, "is no scope"),
        ({"name": "x", "scopes": ["read"], "workers": ["A B"]}, "Worker's name"),
        ({"name": "x", "scopes": ["read"], "workers": ["a"] * 101}, "100 workers at most"),
        ({"name": "x", "scopes": ["admin"], "workers": ["a"]}, "admin is for everything"),
        ({"name": "x", "scopes": ["read"], "life_s": 0}, "cannot live"),
        ({"name": "x", "scopes": ["read"], "life_s": True}, "number of seconds"),
        ({"name": "x", "scopes": ["read"], "life_s": 1e300}, "cannot live"),
        ({"name": "x", "scopes": ["read"], "expires_on": "2020-01-01T00:00:00Z"}, "is over"),
        ({"name": "x", "scopes": ["read"], "expires_on": "soon"}, "is no moment"),
    ],
)
def test_what_cannot_be_a_token_is_refused_in_words(document: dict[str, Any], said: str) -> None:
    """Each field, and the words of its refusal."""
    with pytest.raises(Refusal, match=said):
        read_token(document, 1_795_000_000.0, Limits())


def test_a_token_lives_as_long_as_was_asked() -> None:
    """For the usual life, for ever, until a moment in any zone."""
    now = 1_795_000_000.0

    def end(**more: Any) -> str:
        return read_token({"name": "x", "scopes": ["read"], **more}, now, Limits()).expires_on

    assert end() > end(life_s=89 * DAY_S)
    assert not end(life_s=None)
    assert end(expires_on="2027-01-31T01:00:00+01:00") == "2027-01-31T00:00:00.000000Z"


async def test_a_deploy_token_of_one_worker_deploys_that_and_sees_no_other(world: World) -> None:
    """Goal: what wrangler asks on its way works, lists show its own, nothing else is touched."""
    await world.deploy("other")
    await world.ok("PUT", "scripts/other/domains/records", {"origins": [{"hostname": "o.test"}]})
    await world.ok("PUT", "scripts/other/routes", [{"pattern": "r.test/*"}])
    mine = {"headers": bearer(await token(world, "deploy", workers=["shop"]))}
    for path in ("user", "accounts", "memberships", "user/tokens/verify", f"accounts/{ACCOUNT}"):
        await world.ok("GET", f"{ROOT}/{path}", **mine)
    await world.ok("PUT", "scripts/shop", files=form(), **mine)
    assert [s["id"] for s in await world.ok("GET", "scripts", **mine)] == ["shop"]
    assert [s["id"] for s in await world.ok("GET", "scripts")] == ["other", "shop"]
    assert await world.ok("GET", "domains", **mine) == []
    assert await world.ok("GET", f"{ROOT}/zones/z/workers/routes", **mine) == []
    assert is_forbidden(await world.call("PUT", "scripts/other", files=form(), **mine))
    assert is_forbidden(await world.call("GET", "services/other", **mine))
    (version,) = world.catalog.versions(ACCOUNT, "shop")
    assert version.author_email == "ci@localhost"


async def test_no_hostname_of_another_worker_is_led_away(world: World) -> None:
    """Goal: a token for one worker takes no visitor of another. Method: every way to be in between:
    its hostname, its domain, a part of its routes, wildcards, a worker that does not exist yet."""
    for name in ("other", "shop"):
        await world.deploy(name)
    theirs = {"origins": [{"hostname": "o.test"}]}
    await world.ok("PUT", "scripts/other/domains/records", theirs)
    await world.ok("PUT", "scripts/other/routes", [{"pattern": "r.test/*"}])
    await world.ok("PUT", "scripts/shop/routes", [{"pattern": "r.test/shop/*"}])  # as root
    mine = {"headers": bearer(await token(world, "deploy", workers=["shop"]))}
    kept_route = {"pattern": "r.test/shop/*"}
    patterns = "other.localhost/* later.localhost/* *.localhost/* */* *ther.localhost/x o.test/a"
    for pattern in f"{patterns} r.test/* r.test/api/* *.test/*".split():
        body = [kept_route, {"pattern": pattern}]
        response = await world.call("PUT", "scripts/shop/routes", body, **mine)
        assert response.status_code in (403, 409), pattern
        assert "other'" not in response.json()["errors"][0]["message"]
        assert response.json()["errors"][0]["code"] != 10000, "wrangler would try another way"
    for hostname in ("o.test", "other.localhost", "later.localhost", "r.test"):
        for force in (False, True):
            asked = {"origins": [{"hostname": hostname}], "override_existing_origin": force}
            response = await world.call("PUT", "scripts/shop/domains/records", asked, **mine)
            assert response.status_code == 403, hostname
    assert world.catalog.domains(ACCOUNT, "other").hostnames == ("o.test",)
    shown = await world.ok(
        "POST", "scripts/shop/domains/changeset", [{"hostname": "o.test"}], **mine
    )
    assert shown["updated"][0]["service"] == "(another)"
    fine = [kept_route, {"pattern": "shop.localhost/x"}, {"pattern": "new.test/*"}]
    await world.ok("PUT", "scripts/shop/routes", fine, **mine)
    await world.ok(
        "PUT", "scripts/shop/domains/records", {"origins": [{"hostname": "s.test"}]}, **mine
    )
    over = {**theirs, "override_existing_origin": True}
    await world.ok("PUT", "scripts/shop/domains/records", over)  # root may


@given(
    st.lists(st.sampled_from("ab"), max_size=3).map(".".join),
    st.booleans(),
    st.lists(st.sampled_from("ab"), max_size=3).map(".".join),
    st.booleans(),
    st.lists(st.sampled_from("ab"), max_size=4).map(".".join),
)
def test_hosts_that_share_one_meet(
    one: str, one_open: bool, two: str, two_open: bool, host: str
) -> None:
    """Against the definition: if any host belongs to both, they meet; and it is mutual."""
    left, right = Hosts(one, one_open), Hosts(two, two_open)
    assert left.meets(right) == right.meets(left)
    both = all(
        host.endswith(each.name) if each.open else host == each.name for each in (left, right)
    )
    assert left.meets(right) or not both


async def test_a_deploy_token_sets_no_secret_by_any_way(world: World) -> None:
    """Goal: `deploy` is not `secrets`. Method: each way by which a text can come or go."""
    await world.deploy()
    await world.ok("PUT", "scripts/hello/secrets", SECRET)
    mine = {"headers": bearer(await token(world, "deploy"))}
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "scripts/hello/secrets", {"body": SECRET}),
        ("DELETE", "scripts/hello/secrets/S", {}),
        ("PATCH", "scripts/hello/secrets-bulk", {"body": {"secrets": {"S": None}}}),
        ("PUT", "scripts/hello", {"files": form(bindings=[SECRET])}),
        ("PUT", "scripts/new", {"files": form(bindings=[SECRET])}),
        ("POST", "scripts/hello/versions", {"files": form(bindings=[{**SECRET, "name": "T"}])}),
        ("PATCH", "scripts/hello/settings", {"body": {"bindings": []}}),
        ("PATCH", "workers/hello/versions/latest", {"body": {"env": {"S": {"text": "x"}}}}),
    ]
    before = world.stored()
    for method, path, more in ways:
        response = await world.call(method, path, more.pop("body", None), **more, **mine)
        assert is_forbidden(response), (method, path, response.text)
        assert '"secrets"' in response.json()["errors"][0]["message"].replace("\\", "")
    assert world.stored() == before
    await world.ok("PUT", "scripts/hello", files=form(HELLO + "// 2"), **mine)
    assert len(await world.ok("GET", "scripts/hello/secrets", **mine)) == 1


async def test_a_secrets_token_changes_secrets_and_nothing_else(world: World) -> None:
    """By the way of each wrangler; code and settings need `deploy`."""
    await world.deploy()
    mine = {"headers": bearer(await token(world, "secrets", workers=["hello"]))}
    await world.ok("PUT", "scripts/hello/secrets", SECRET, **mine)
    bulk = {"bindings": [{"name": "S", "type": "secret_text"}, {**SECRET, "name": "T"}]}
    await world.ok("PATCH", "scripts/hello/settings", bulk, **mine)
    latest = {"env": {"U": {"type": "secret_text", "text": "x"}}}
    await world.ok("PATCH", "workers/hello/versions/latest", latest, **mine)
    more = {"bindings": [*bulk["bindings"], {"name": "V", "type": "plain_text", "text": "t"}]}
    for method, path, body in (
        ("PATCH", "scripts/hello/settings", more),
        ("PATCH", "scripts/hello/settings", {**bulk, "logpush": True}),
        ("PATCH", "scripts/hello/script-settings", {"logpush": True}),
        ("PATCH", "workers/hello/versions/latest", {"env": {}}),
        ("PUT", "scripts/hello/routes", [{"pattern": "a.test/*"}]),
    ):
        await world.ok("POST", "scripts/hello/deployments", _newest(world))
        assert is_forbidden(await world.call(method, path, body, **mine)), (path, body)
    assert is_forbidden(await world.call("PUT", "scripts/hello", files=form(), **mine))


def _newest(world: World) -> dict[str, Any]:
    newest = world.catalog.versions(ACCOUNT, "hello")[0]
    return {
        "strategy": "percentage",
        "versions": [{"version_id": newest.id, "percentage": 100}],
    }


async def test_a_token_asks_what_it_is_itself(world: World) -> None:
    """`wrangler whoami`, and the account's own way to ask."""
    text = await token(world, "read", life_s=60)
    for path in (f"{ROOT}/user/tokens/verify", f"{TOKENS}/verify"):
        told = await world.ok("GET", path, headers=bearer(text))
        assert told["id"] == text.split("_")[1]
        assert told["status"] == "active"
        assert told["expires_on"]
    (membership,) = await world.ok("GET", f"{ROOT}/memberships", headers=bearer(text))
    assert membership["roles"] == ["API token with the scope read"]


async def test_a_token_that_a_newer_kythera_rewrote_opens_nothing(world: World) -> None:
    """It may have been revoked there: what cannot be read is not believed."""
    text = await token(world, "admin")
    (record,) = kept(world)
    await world.log.append(record.key(), b'{"schema": 99}')
    assert await status_with(world, text) == 403


async def test_while_the_copy_is_away_nobody_is_called_wrong(world: World) -> None:
    """503, not 403: it cannot be known."""
    text = await token(world, "read")
    world.copy.absent = True
    assert await status_with(world, text) == 503
    assert not world.services.wrong_tokens.counts


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return two machines."""
    async with machines(tmp_path, "ab") as made:
        yield made


async def test_a_token_is_good_and_ends_on_every_machine_at_once(fleet: Machines) -> None:
    """Goal: revoked on `a` means refused by `b`, whose copy is behind: it catches up first."""
    a, b = fleet["a"], fleet["b"]
    b.copy.stopped_at = fleet.log._last
    text = await token(a, "read")
    b.copy.stopped_at = None
    assert await status_with(b, text) == 200
    stopped = fleet.log._last
    await a.ok("DELETE", f"{TOKENS}/ci")
    behind = BehindUntilAsked(b, stopped)
    response = await b.call("GET", "scripts", headers=bearer(text))
    assert behind.asked
    assert response.status_code == 403
    assert "was revoked" in response.text


async def test_without_catching_up_first_the_ended_token_would_pass(
    fleet: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: a gate that believes its copy lets it in; so the test above can fail."""

    async def believing(*_: Any) -> None:
        return None

    a, b = fleet["a"], fleet["b"]
    text = await token(a, "read")
    assert await status_with(b, text) == 200
    stopped = fleet.log._last
    await a.ok("DELETE", f"{TOKENS}/ci")
    b.copy.stopped_at = stopped
    monkeypatch.setattr(Gate, "_refresh_for", believing)
    assert await status_with(b, text) == 200


async def test_a_fleet_without_its_log_goes_by_what_each_machine_knows(fleet: Machines) -> None:
    """Fail static: a token that was good is; and the answer says how old that is."""
    text = await token(fleet["a"], "read")
    assert await status_with(fleet["b"], text) == 200
    fleet.log.pause()
    response = await fleet["b"].call("GET", "scripts", headers=bearer(text))
    assert response.status_code == 200
    assert "log cannot be reached" in response.json()["messages"][0]["message"]


async def test_a_sender_of_many_wrong_tokens_is_no_load_for_the_log(fleet: Machines) -> None:
    """Well-formed ones might be new, so the copy catches up for them: for a few, not for all."""
    b = fleet["b"]
    b.copy.stopped_at = fleet.log._last
    free = b.services.platform.limits.wrong_tokens_free
    for _ in range(free):
        b.services.wrong_tokens.failed("127.0.0.1", "unknown", b.clock.time)
    asked: list[int] = []
    b.services.store.newest = lambda: asked.append(1)  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(WrongToken):
        from starlette.datastructures import Headers

        scope = {"type": "http", "path": "/client/v4/accounts", "client": ("127.0.0.1", 1)}
        gate = Gate(b.app, b.services)
        await gate._refresh_for(f"kyt_{'0' * 12}_{'0' * 64}", scope, Headers())
    assert asked == []


class BehindUntilAsked:
    """A machine whose copy stands still until it asks the log how far behind it is."""

    def __init__(self, machine: World, stopped_at: int) -> None:
        self.asked = False
        machine.copy.stopped_at = stopped_at
        store = machine.services.store
        newest = store.newest

        async def asking() -> int:
            self.asked = True
            machine.copy.stopped_at = None
            return await newest()

        store.newest = asking  # type: ignore[method-assign]
