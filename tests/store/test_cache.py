"""The Cache API's store: what was put is matched, whole and in time, by its own account."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from kythera.model.limits import Limits
from kythera.store.cache import CacheStore
from kythera.store.cache_index import OBJECT_BYTES
from kythera.store.cache_purges import FILE, Purge, due, encode
from tests.store.asking import as_put, asking, pass_to

pytestmark = pytest.mark.anyio
URL = "http://x.example/a?b=c"
FRESH = {"Cache-Control": "max-age=60"}
SMALL = Limits(
    cache_object_bytes_max=1_000, cache_bytes_max=8 * OBJECT_BYTES, disk_free_bytes_min=0
)


class Moved:
    """A clock that a test moves."""

    time = 1_800_000_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.time


@pytest.fixture
def clock() -> Moved:
    """Return a clock."""
    return Moved()


@pytest.fixture
def cache(tmp_path: Path, clock: Moved) -> Iterator[CacheStore]:
    """Return an empty cache with small limits."""
    store = CacheStore(tmp_path, SMALL, clock.now)
    yield store
    store.close()


@pytest.fixture
async def client(cache: CacheStore) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of it."""
    async with asking(cache, "cache", "http://x.example") as found:
        yield found


async def put(
    client: httpx.AsyncClient,
    body: bytes = b"hello",
    url: str = URL,
    *,
    account: str = "a",
    status: str = "200 OK",
    asked: dict[str, str] | None = None,
    **headers: str,
) -> int:
    """Put a response, as workerd does, and return how that went."""
    told = {**FRESH, **{name.replace("_", "-"): value for name, value in headers.items()}}
    sent = {**pass_to("cache", "cache", account), **(asked or {})}
    answer = await client.put(url, content=as_put(body, told, status), headers=sent)
    return answer.status_code


async def match(
    client: httpx.AsyncClient, url: str = URL, *, account: str = "a", **asked: str
) -> httpx.Response:
    """Ask for it."""
    headers = {name.replace("_", "-"): value for name, value in asked.items()}
    return await client.get(url, headers={**pass_to("cache", "cache", account), **headers})


async def is_there(client: httpx.AsyncClient, url: str = URL, **asked: str) -> bool:
    """Tell whether it is a hit."""
    return (await match(client, url, **asked)).headers["cf-cache-status"] == "HIT"


async def test_what_was_put_is_matched_until_it_expires(
    client: httpx.AsyncClient, clock: Moved
) -> None:
    """Goal: body, status and headers come back, with an age; afterwards it is a miss."""
    assert not await is_there(client)
    assert await put(client, X_Mine="1", status="404 Not Found") == 204
    clock.time += 59
    found = await match(client)
    assert (found.status_code, found.content) == (404, b"hello")
    assert (found.headers["x-mine"], found.headers["age"]) == ("1", "59")
    clock.time += 1
    assert not await is_there(client)
    assert (await match(client)).status_code == 504


async def test_nobody_matches_or_removes_what_is_anothers(client: httpx.AsyncClient) -> None:
    """Goal: accounts, named caches and schemes are apart; without a pass nothing is heard."""
    await put(client)
    assert not await is_there(client, account="b")
    assert not await is_there(client, cf_cache_namespace="mine")
    assert not await is_there(client, x_kythera_scheme="https")
    gone = await client.request("PURGE", URL, headers=pass_to("cache", "cache", "b"))
    assert gone.status_code == 404
    assert await is_there(client)
    assert (await client.get(URL)).status_code == 403
    assert (await client.get(URL, headers=pass_to("kv", "cache"))).status_code == 403


async def test_a_delete_tells_whether_there_was_something(client: httpx.AsyncClient) -> None:
    """Goal: 200, then 404."""
    await put(client)
    for status in (200, 404):
        gone = await client.request("PURGE", URL, headers=pass_to("cache", "cache"))
        assert gone.status_code == status
    assert not await is_there(client)


async def test_parts_and_conditions_are_answered_from_the_cache(client: httpx.AsyncClient) -> None:
    """Goal: 206 with its range, 304 without a body, 416 beyond the end."""
    await put(client, b"0123456789", ETag='"e"')
    part = await match(client, range="bytes=2-4")
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert (await match(client, if_none_match='"e"')).status_code == 304
    assert (await match(client, range="bytes=10-")).status_code == 416


async def test_variants_do_not_answer_for_each_other(client: httpx.AsyncClient) -> None:
    """Goal: `Vary` as RFC 9111 has it."""
    await put(client, b"deutsch", Vary="Accept-Language", asked={"accept-language": "de"})
    await put(client, b"english", Vary="Accept-Language", asked={"accept-language": "en"})
    assert (await match(client, accept_language="de")).content == b"deutsch"
    assert (await match(client, accept_language="en")).content == b"english"
    assert not await is_there(client, accept_language="fr")


async def test_what_cannot_be_kept_is_not_kept(
    cache: CacheStore, client: httpx.AsyncClient
) -> None:
    """Goal: too large, cut short, or no response at all: never a torn object, nor a file left."""
    assert await put(client, b"x" * 1_001) == 413
    assert await put(client, b"x" * 10, content_length="2000") == 413
    assert await put(client, cache_control="no-store", Cache_Control="no-store") == 413
    await client.put(URL, content=b"not a response", headers=pass_to("cache", "cache"))
    assert await put(client, X_Bad="a\x01b") == 413
    with pytest.raises((AssertionError, httpx.HTTPError)):
        await put(client, b"x" * 10, content_length="11")  # broken off: there is no answer
    assert not await is_there(client)
    assert list(cache.index.bodies.iterdir()) == []


async def test_the_least_recently_used_goes_from_who_takes_most(
    cache: CacheStore, client: httpx.AsyncClient, clock: Moved
) -> None:
    """Goal: one account cannot push another's objects out, nor its own recent ones first."""
    await put(client, url=f"{URL}&quiet", account="b")
    for number in range(20):
        clock.time += 1
        await put(client, url=f"{URL}&{number}")
        await match(client, f"{URL}&0")
    assert cache.index.cost <= SMALL.cache_bytes_max
    assert len(list(cache.index.bodies.iterdir())) == cache.index.cost // OBJECT_BYTES
    assert await is_there(client, f"{URL}&quiet", account="b")
    assert await is_there(client, f"{URL}&0")
    assert await is_there(client, f"{URL}&19")
    assert not await is_there(client, f"{URL}&1")


async def test_it_survives_a_restart_and_damage_is_a_miss(tmp_path: Path, clock: Moved) -> None:
    """Goal: what was acknowledged is there again; a body that is not what it was is not served, and
    an index that cannot be read is an empty cache."""
    first = CacheStore(tmp_path, SMALL, clock.now)
    async with asking(first, "cache", "http://x.example") as client:
        await put(client)
        await put(client, url=f"{URL}&torn")
    torn = first.index.find("a", _key_of(first, f"{URL}&torn"))[0]
    (first.index.bodies / "stray").write_bytes(b"half")
    second = CacheStore(tmp_path, SMALL, clock.now)  # as after kill -9: the first never closed
    (second.index.bodies / torn.file).write_bytes(b"hel")
    async with asking(second, "cache", "http://x.example") as client:
        assert (await match(client)).content == b"hello"
        assert not await is_there(client, f"{URL}&torn")
    assert len(list(second.index.bodies.iterdir())) == 1
    first.close()
    second.close()
    for path in tmp_path.glob("index.sqlite*"):
        path.write_bytes(b"nonsense" * 1_000)
    third = CacheStore(tmp_path, SMALL, clock.now)
    async with asking(third, "cache", "http://x.example") as client:
        assert not await is_there(client)
        assert await put(client) == 204
        assert await is_there(client)
    third.close()


def _key_of(store: CacheStore, url: str) -> bytes:
    rows = store.index._database.execute("SELECT key FROM objects WHERE url = ?", (url,))
    found: bytes = rows.fetchone()[0]
    return found


async def test_what_is_purged_is_gone_at_the_next_question(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Goal: by URL, host, prefix and tag, of one account alone, each purge once."""
    urls = {
        "a": f"{URL}",
        "b": "http://y.example/b",
        "c": "http://x.example/img/c",
        "d": f"{URL}&d",
    }
    for url in urls.values():
        await put(client, url=url, Cache_Tag="red" if url == urls["d"] else "blue")
    await put(client, account="b")
    purges = (
        Purge(number=1, urls=(urls["a"],)),
        Purge(number=2, hosts=("y.example",)),
        Purge(number=3, prefixes=("x.example/img",)),
        Purge(number=4, tags=("red",)),
    )
    (tmp_path / FILE).write_bytes(encode({"a": purges}))
    assert [await is_there(client, url) for url in urls.values()] == [False] * 4
    assert await is_there(client, account="b")
    await put(client)
    assert await is_there(client)


def test_who_missed_purges_that_are_not_kept_empties_its_cache() -> None:
    """Goal: a gap in the numbers means everything."""
    kept = (Purge(number=5, urls=("u",)), Purge(number=6, urls=("v",)))
    assert due(kept, 4) == kept
    assert due(kept, 5) == kept[1:]
    assert due(kept, 6) == ()
    assert due(kept, 3) == (Purge(number=6, everything=True),)


def test_purges_are_read_as_they_were_written() -> None:
    """Goal: what the agent writes is what the cache reads."""
    purges = {"a": (Purge(number=1, urls=("u",), everything=True),)}
    assert msgspec.json.decode(encode(purges), type=dict[str, tuple[Purge, ...]]) == purges
