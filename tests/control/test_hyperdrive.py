"""Hyperdrive's configurations through the API."""

import json
from typing import Any

import pytest

from kythera.deploy.hyperdrive import HYPERDRIVE, password_of
from kythera.model.records import encode
from tests.control.tokens import bearer, token
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
CONFIGS = f"{ROOT}/accounts/{ACCOUNT}/hyperdrive/configs"
PASSWORD = "a text nobody may see"
ORIGIN = {
    "scheme": "postgresql",
    "host": "DB.example.com",
    "port": 5433,
    "database": "shop",
    "user": "me",
    "password": PASSWORD,
}


def asked(name: str = "db", **origin: Any) -> dict[str, Any]:
    """Return a body as wrangler sends it."""
    return {"name": name, "origin": {**ORIGIN, **origin}}


async def test_a_config_is_kept_and_its_password_never_shown(world: World) -> None:
    """Goal: made, listed, changed in part, deleted; the password is sealed, and in no answer."""
    made = await world.ok("POST", CONFIGS, asked())
    assert made["origin"] == {
        "scheme": "postgresql",
        "host": "db.example.com",
        "port": 5433,
        "database": "shop",
        "user": "me",
    }
    one = f"{CONFIGS}/{made['id']}"
    changed = await world.ok("PATCH", one, {"name": "db2", "origin_connection_limit": 5})
    assert (changed["name"], changed["origin_connection_limit"]) == ("db2", 5)
    moved = await world.ok("PATCH", one, {"origin": {"port": 1, "password": f"{PASSWORD} 2"}})
    assert moved["origin"]["port"] == 1
    (record,) = world.catalog.resources(ACCOUNT, HYPERDRIVE)
    assert password_of(record, world.services.seals) == f"{PASSWORD} 2"
    shown = [made, changed, moved, await world.ok("GET", one), await world.ok("GET", CONFIGS)]
    texts = [json.dumps(shown), world.journal.getvalue()]
    texts += [encode(each).decode() for each in world.catalog.records.values()]
    assert not any(PASSWORD in text for text in texts)
    await world.ok("DELETE", one)
    assert await world.ok("GET", CONFIGS) == []
    assert (await world.refused("GET", one))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        asked(name=""),
        asked(scheme="mysql"),
        asked(host="no host"),
        asked(host="http://db.example.com"),
        asked(port=0),
        asked(port="5432"),
        asked(user=""),
        asked(password="a\0b"),
        asked(access_client_id="x"),
        asked(service_id="x"),
        {**asked(), "mtls": {"sslmode": "verify-full"}},
        {**asked(), "mtls": {"ca_certificate_id": "x"}},
        {**asked(), "origin_connection_limit": 101},
        asked(name="taken"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(world: World, body: dict[str, Any]) -> None:
    """Goal: nothing is taken that would do something else than it says."""
    await world.ok("POST", CONFIGS, asked(name="taken"))
    await world.refused("POST", CONFIGS, body)


async def test_a_way_past_the_egress_rules_takes_an_administrator(world: World) -> None:
    """Goal: who may deploy may use a config, not make one."""
    deploys = bearer(await token(world, "deploy"))
    assert (await world.call("POST", CONFIGS, asked(), headers=deploys)).status_code == 403
    made = await world.ok("POST", CONFIGS, asked())
    binding = {"type": "hyperdrive", "name": "DB", "id": made["id"]}
    await world.deploy(bindings=[binding])
