"""R2's buckets through the API, with a store in memory behind it."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as changed

from kythera.model.errors import Refusal
from tests.control.world import ACCOUNT, World

pytestmark = pytest.mark.anyio
ROOT = f"/client/v4/accounts/{ACCOUNT}/r2/buckets"


class Door:
    """A fake store: objects in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[dict[str, Any], bytes]] = {}

    async def write(
        self,
        bucket: str,
        question: Mapping[str, Any],
        size: int = 0,
        body: AsyncIterable[bytes] | None = None,
    ) -> dict[str, Any]:
        """Put or delete, or refuse to forget a bucket that is not empty."""
        if question["method"] == "deleteBucket":
            if any(where == bucket for where, _ in self.objects):
                raise Refusal(10008, "The bucket you tried to delete is not empty.", status=409)
            return {}
        place = (bucket, question["object"])
        if question["method"] == "delete":
            self.objects.pop(place, None)
            return {}
        data = b"".join([piece async for piece in body or ()])  # type: ignore[union-attr]
        assert len(data) == size, "the store is told how long an object will be"
        told = {
            "etag": "e",
            "size": str(size),
            "version": "v",
            "uploaded": "0",
            "httpFields": question["httpFields"],
            "storageClass": question["storageClass"],
        }
        self.objects[place] = (told, data)
        return told

    async def find(self, bucket: str, key: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """Return an object."""
        if (bucket, key) not in self.objects:
            raise Refusal(10007, "The specified key does not exist.", status=404)
        told, data = self.objects[(bucket, key)]

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        return told, pieces()

    async def page(self, bucket: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first objects after the cursor, which is a key here."""
        found = sorted(
            (key, told)
            for (where, key), (told, _) in self.objects.items()
            if where == bucket and key > question["cursor"] and key.startswith(question["prefix"])
        )
        shown = found[: question["limit"]]
        more = len(found) > len(shown)
        return {
            "objects": [{"name": key, **told, "customFields": []} for key, told in shown],
            "truncated": more,
            "delimitedPrefixes": [],
            **({"cursor": shown[-1][0]} if more else {}),
        }


@pytest.fixture
def door(world: World) -> Door:
    """Return the store behind this world's API."""
    found = Door()
    world.services = replace(world.services, buckets=found)
    world.app.state.services = world.services
    return found


def codes(answer: Any) -> list[int]:
    """Return the codes of an answer's errors."""
    return [error["code"] for error in answer.json()["errors"]]


async def test_a_bucket_is_made_shown_listed_and_deleted(world: World, door: Door) -> None:
    """Goal: a bucket's life, in Cloudflare's words."""
    made = await world.call("POST", ROOT, body={"name": "one", "locationHint": "weur"})
    assert made.json()["result"]["location"] == "WEUR"
    shown = (await world.call("GET", f"{ROOT}/one")).json()["result"]
    assert (shown["name"], shown["storage_class"]) == ("one", "Standard")
    listed = (await world.call("GET", ROOT)).json()["result"]["buckets"]
    assert [bucket["name"] for bucket in listed] == ["one"]
    assert (await world.call("GET", f"{ROOT}?page=2")).json()["result"]["buckets"] == []
    changed = await world.call(
        "PATCH", f"{ROOT}/one", headers={"cf-r2-storage-class": "InfrequentAccess"}
    )
    assert changed.json()["result"]["storage_class"] == "InfrequentAccess"
    assert (await world.call("DELETE", f"{ROOT}/one")).status_code == 200
    assert codes(await world.call("GET", f"{ROOT}/one")) == [10006]


@pytest.mark.parametrize("name", ["ab", "-ab", "ab-", "Abc", "a.b", "a_b", "a" * 64])
async def test_a_name_that_no_bucket_can_have_is_refused(world: World, name: str) -> None:
    """Goal: Cloudflare's rules, 10005."""
    refused = await world.call("POST", ROOT, body={"name": name})
    assert (refused.status_code, codes(refused)) == (400, [10005])


async def test_what_is_there_is_not_made_again(world: World, door: Door) -> None:
    """Goal: 10004, and 10008 for what is not empty."""
    await world.call("POST", ROOT, body={"name": "one"})
    assert codes(await world.call("POST", ROOT, body={"name": "one"})) == [10004]
    await world.call("PUT", f"{ROOT}/one/objects/k", content=b"x")
    full = await world.call("DELETE", f"{ROOT}/one")
    assert (full.status_code, codes(full)) == (409, [10008])
    assert (await world.call("GET", f"{ROOT}/one")).status_code == 200


async def test_objects_keep_their_headers_and_any_key(world: World, door: Door) -> None:
    """Goal: slashes, blanks, percent signs; what a browser is to be told."""
    await world.call("POST", ROOT, body={"name": "one"})
    place = f"{ROOT}/one/objects/dir//a%20b%252F"
    headers = {"content-type": "a/b", "expires": "Thu, 01 Jan 1970 00:00:09 GMT"}
    assert (await world.call("PUT", place, content=b"bytes", headers=headers)).status_code == 200
    assert ("one", "dir//a b%2F") in door.objects
    got = await world.call("GET", place)
    assert got.content == b"bytes"
    assert got.headers["content-type"] == "a/b"
    assert got.headers["expires"] == "Thu, 01 Jan 1970 00:00:09 GMT"
    assert (await world.call("DELETE", place)).status_code == 200
    assert codes(await world.call("GET", place)) == [10007]


async def test_objects_are_listed_in_pages(world: World, door: Door) -> None:
    """Goal: what the list says of an object, and a cursor to the next page."""
    await world.call("POST", ROOT, body={"name": "one"})
    headers = {"content-type": "a/b", "expires": "Thu, 01 Jan 1970 00:00:09 GMT"}
    for key in ("a/1", "a/2", "b"):
        await world.call("PUT", f"{ROOT}/one/objects/{key}", content=b"12", headers=headers)
    page = (await world.call("GET", f"{ROOT}/one/objects?per_page=1&prefix=a/")).json()
    (shown,) = page["result"]
    assert (shown["key"], shown["size"], shown["storage_class"]) == ("a/1", 2, "Standard")
    assert shown["http_metadata"] == {
        "contentType": "a/b",
        "cacheExpiry": "1970-01-01T00:00:09.000000Z",
    }
    info = page["result_info"]
    assert (info["is_truncated"], info["per_page"]) == (True, 1)
    rest = await world.call("GET", f"{ROOT}/one/objects?prefix=a/&cursor={info['cursor']}")
    assert [each["key"] for each in rest.json()["result"]] == ["a/2"]
    assert rest.json()["result_info"]["cursor"] == ""


async def test_a_body_without_a_length_is_kept_too(world: World, door: Door) -> None:
    """Goal: a pipe."""

    async def body() -> AsyncIterator[bytes]:
        yield b"pi"
        yield b"ped"

    await world.call("POST", ROOT, body={"name": "one"})
    await world.call("PUT", f"{ROOT}/one/objects/k", content=body())
    assert door.objects[("one", "k")][1] == b"piped"


@pytest.mark.parametrize("path", ["cors", "lifecycle", "lock", "domains/custom"])
async def test_settings_that_buckets_have_not_are_empty_and_cannot_be_set(
    world: World, path: str
) -> None:
    """Goal: lists that clients read are there; writing one is refused by name."""
    await world.call("POST", ROOT, body={"name": "one"})
    shown = (await world.call("GET", f"{ROOT}/one/{path}")).json()["result"]
    assert list(shown.values()) == [[]]
    assert codes(await world.call("PUT", f"{ROOT}/one/{path}", body={})) == [10041]


async def test_a_jurisdiction_is_refused(world: World) -> None:
    """Goal: never taken silently: the data would not be where it says."""
    refused = await world.call("GET", ROOT, headers={"cf-r2-jurisdiction": "eu"})
    assert codes(refused) == [10029]


async def test_there_is_an_end_to_how_many_buckets_there_may_be(world: World) -> None:
    """Goal: 10009, naming the limit."""
    platform = world.services.platform
    limits = changed(platform.limits, r2_buckets_max=1)
    world.services = replace(world.services, platform=changed(platform, limits=limits))
    world.app.state.services = world.services
    await world.call("POST", ROOT, body={"name": "one"})
    refused = await world.call("POST", ROOT, body={"name": "two"})
    assert codes(refused) == [10009]
    assert "r2_buckets_max" in refused.text
