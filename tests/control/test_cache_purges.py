"""Purging the cache through the API."""

from pathlib import Path
from typing import Any

import pytest

from kythera.control.cache_purges import read_purge, with_purge
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.store.cache_purges import RECORD, due, purges_of
from tests.control.tokens import bearer, token
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
PATH = f"{ROOT}/zones/any/purge_cache"
FEW = Limits(cache_purge_items_max=3, cache_purges_kept_max=2)


async def test_purges_are_numbered_and_the_newest_are_kept(world: World) -> None:
    """Goal: two calls, two numbers, in one record that every machine reads."""
    assert await world.ok("POST", PATH, {"files": ["https://x.example"]}) == {"id": "any"}
    await world.ok("POST", PATH, {"purge_everything": True})
    first, second = purges_of(world.catalog.resource(ACCOUNT, *RECORD))
    assert (first.number, first.urls) == (1, ("https://x.example/",))
    assert (second.number, second.everything) == (2, True)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"files": ["HTTPS://X.example:443/A?b=C#d"]}, {"urls": ("https://x.example/A?b=C",)}),
        (
            {"files": [{"url": "http://x.example:81/", "headers": {}}]},
            {"urls": ("http://x.example:81/",)},
        ),
        ({"hosts": ["X.Example"]}, {"hosts": ("x.example",)}),
        ({"prefixes": ["https://x.example/a"]}, {"prefixes": ("x.example/a",)}),
        ({"tags": ["Red "]}, {"tags": ("red",)}),
    ],
)
def test_what_is_asked_is_kept_as_the_cache_names_it(
    sent: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Goal: a URL as workerd sends it, whatever way it was written."""
    found = read_purge(sent, Limits())
    assert {name: getattr(found, name) for name in kept} == kept


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"files": []},
        {"files": ["x.example/a"]},
        {"files": ["https://[x"]},
        {"files": [1]},
        {"files": "https://x.example/"},
        {"everything": True},
        {"purge_everything": "yes"},
        {"files": [f"https://x.example/{n}" for n in range(4)]},
    ],
)
def test_what_is_no_purge_is_refused_by_name(sent: dict[str, Any]) -> None:
    """Goal: nothing is purged by mistake, and nothing silently not."""
    with pytest.raises(Refusal):
        read_purge(sent, FEW)


def test_a_machine_that_missed_too_many_empties_its_cache() -> None:
    """Goal: of three purges two are kept; who has done none of them takes it for everything."""
    record = None
    for number in range(3):
        asked = read_purge({"files": [f"https://x.example/{number}"]}, FEW)
        record = with_purge(record, asked, "a", "2026-01-01T00:00:00Z", FEW)
    kept = purges_of(record)
    assert [purge.number for purge in kept] == [2, 3]
    assert [purge.everything for purge in due(kept, 0)] == [True]
    assert due(kept, 1) == kept


async def test_tokens_for_some_workers_purge_nothing(world: World, tmp_path: Path) -> None:
    """Goal: the cache is the whole account's."""
    text = await token(world, "deploy", workers=["shop"])
    answer = await world.call("POST", PATH, {"purge_everything": True}, headers=bearer(text))
    assert answer.status_code == 403
    text = await token(world, "deploy", name="all")
    answer = await world.call("POST", PATH, {"purge_everything": True}, headers=bearer(text))
    assert answer.status_code == 200
