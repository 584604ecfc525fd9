"""Sums of what workers ask, and who may know them."""

from typing import Any

import msgspec
import pytest

from kythera.ground.passes import Pass
from kythera.model.limits import Limits
from kythera.store.rate_limits import RateLimitStore
from kythera.store.usage import Usage
from tests.store.asking import asking, pass_to

pytestmark = pytest.mark.anyio


def told(usage: Usage) -> Any:
    """Return the sums."""
    return msgspec.json.decode(usage.told())["workers"]


def test_sums_are_by_account_and_worker_and_the_platform_has_none() -> None:
    """Goal: two workers of one name are two; a name that was not counted yet shows as nothing."""
    usage = Usage("reads", "writes")
    for account, worker in (("a", "w"), ("b", "w"), ("a", "w"), ("a", "")):
        granted = Pass(account=account, worker=worker, store="kv", resource="r")
        usage.add(granted, "reads", 2)
    assert told(usage) == [
        {"account": "a", "worker": "w", "counts": {"reads": 4, "writes": 0}},
        {"account": "b", "worker": "w", "counts": {"reads": 2, "writes": 0}},
    ]


async def test_the_agent_alone_is_told() -> None:
    """Goal: a cell that asks for /usage asks its binding, and is answered by it."""
    store = RateLimitStore(Limits())
    async with asking(store, "ratelimit") as client:
        limit = {"key": "k", "limit": 1, "period": 60}
        mine = pass_to("ratelimit", "7")
        for _ in range(2):
            await client.post("/", json=limit, headers=mine)
        assert (await client.get("/usage", headers=mine)).status_code == 400
        agents = pass_to("ratelimit", "", account="", worker="")
        (use,) = (await client.get("/usage", headers=agents)).json()["workers"]
    assert use == {"account": "a", "worker": "w", "counts": {"calls": 2, "limited": 1}}
