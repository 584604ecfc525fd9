"""The API of D1 databases, over a store that is SQLite in memory."""

import dataclasses
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kythera.control.app import build_app
from kythera.control.store import put
from kythera.control.store_calls import Asked
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from tests.control.tokens import bearer, is_forbidden, token
from tests.control.world import ACCOUNT, QUICK, ROOT, World, form, world_at

pytestmark = pytest.mark.anyio
D1 = f"{ROOT}/accounts/{ACCOUNT}/d1/database"
ABSENT = "00000000-0000-4000-8000-000000000000"


class MemoryStore:
    """Answers as the store's door does; its databases are in memory."""

    def __init__(self, folder: Path) -> None:
        self.databases: dict[str, sqlite3.Connection] = {}
        self.away = False
        self._folder = folder

    async def ask(self, asked: Asked, path: str, body: bytes, within_s: float) -> tuple[int, bytes]:
        """Do what an action is for."""
        assert asked.store == "d1"
        assert asked.account == ACCOUNT
        if self.away:
            raise StoreUnavailable("The store 'd1' did not answer: a test said so.")
        if path == "/create":
            self.databases[asked.resource] = sqlite3.connect(":memory:", isolation_level=None)
            return 200, b'{"file_size": 8192, "num_tables": 0}'
        try:
            found = getattr(self, path.removeprefix("/"))(asked.resource, body)
        except (sqlite3.Error, KeyError) as error:
            return 400, msgspec.json.encode({"error": str(error)})
        return 200, found if isinstance(found, bytes) else msgspec.json.encode(found)

    def info(self, resource: str, body: bytes) -> Any:
        """Count tables."""
        (count,) = self.databases[resource].execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        return {"file_size": 8192, "num_tables": count}

    def sql(self, resource: str, body: bytes) -> Any:
        """Run one statement."""
        asked = msgspec.json.decode(body)
        done = self.databases[resource].execute(asked["sql"], asked["params"])
        columns = [column[0] for column in done.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in done.fetchall()]
        return {"answers": [{"results": rows, "success": True, "meta": {}}]}

    def delete(self, resource: str, body: bytes) -> Any:
        """Forget a database; tell its file's name."""
        self.databases.pop(resource, None)
        return {"id": "0123"}

    def export(self, resource: str, body: bytes) -> Any:
        """Dump a database."""
        return "\n".join(self.databases[resource].iterdump()).encode()

    def __getattr__(self, name: str) -> Any:
        """`import` cannot be the name of a method."""
        if name != "import":
            raise AttributeError(name)
        return self._take_in

    def _take_in(self, resource: str, body: bytes) -> Any:
        self.databases[resource].executescript(body.decode())
        return {"num_queries": 1, "rows_read": 0, "rows_written": 1, "duration": 0}

    def folder(self, store: str) -> Path:
        """Return where files are."""
        return self._folder / store

    @property
    def transfers(self) -> Path:
        """Return where uploads are."""
        return self._folder


@dataclasses.dataclass
class Databases:
    """A world with a store."""

    world: World
    store: MemoryStore

    async def make(self, name: str = "one") -> str:
        """Make a database; return its id."""
        made = await self.world.ok("POST", D1, {"name": name})
        assert made["name"] == name
        return str(made["uuid"])

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, int, str]:
        """Call what must refuse."""
        return await self.world.refused(method, path, body)


async def databases(folder: Path, limits: Limits = QUICK) -> AsyncIterator[Databases]:
    """Yield a world with a store."""
    async with world_at(folder, limits) as world:
        store = MemoryStore(folder)
        world.services = dataclasses.replace(world.services, stores=store)
        world.app = build_app(world.services)
        world.client._transport.app = world.app  # type: ignore[attr-defined]
        yield Databases(world, store)


@pytest.fixture
async def d1(tmp_path: Path) -> AsyncIterator[Databases]:
    """Return a world with a store."""
    async for found in databases(tmp_path):
        yield found


async def test_a_database_is_made_found_and_deleted(d1: Databases, tmp_path: Path) -> None:
    """Goal: by id and by name, listed to its end, its file and record gone at last."""
    found = await d1.make()
    await d1.make("two")
    assert (await d1.world.ok("GET", f"{D1}/{found}"))["num_tables"] == 0
    assert (await d1.world.ok("GET", f"{D1}/one?fields=uuid,name"))["uuid"] == found
    listed = await d1.world.ok("GET", f"{D1}?per_page=10&page=1")
    assert [each["name"] for each in listed] == ["one", "two"]
    assert await d1.world.ok("GET", f"{D1}?per_page=10&page=2") == []
    assert len(await d1.world.ok("GET", f"{D1}?name=two")) == 1
    files = [tmp_path / "d1" / "d1" / f"0123.sqlite{ending}" for ending in ("", "-wal", "-shm")]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.touch()
    assert await d1.world.ok("DELETE", f"{D1}/{found}") is None
    assert not any(file.exists() for file in files)
    assert (await d1.refused("GET", f"{D1}/{found}"))[:2] == (404, 7404)


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 129, "é", 7, None])
async def test_a_name_that_cannot_be_is_refused(d1: Databases, name: Any) -> None:
    """Goal: nothing is stored of it."""
    status, code, _ = await d1.refused("POST", D1, {"name": name})
    assert status == 400
    assert code in (7400, 10021)


async def test_a_name_means_one_database(d1: Databases) -> None:
    """Goal: 7502, upon which wrangler says so in its own words."""
    await d1.make()
    assert await d1.refused("POST", D1, {"name": "one"}) == (
        409,
        7502,
        "Database with name 'one' already exists",
    )


async def test_there_are_as_many_as_may_be(tmp_path: Path) -> None:
    """Goal: 7406 names the limit."""
    async for d1 in databases(tmp_path, msgspec.structs.replace(QUICK, d1_databases_max=1)):
        await d1.make()
        _, code, text = await d1.refused("POST", D1, {"name": "two"})
        assert code == 7406
        assert "d1_databases_max" in text


async def test_statements_are_asked_of_the_store(d1: Databases) -> None:
    """Goal: results in Cloudflare's shape; SQLite's words as 7500; what is no parameter, refused."""
    path = f"{D1}/{await d1.make()}"
    (answer,) = await d1.world.ok("POST", f"{path}/query", {"sql": "SELECT ? AS n", "params": [5]})
    assert answer["results"] == [{"n": 5}]
    assert (await d1.refused("POST", f"{path}/raw", {"sql": "SELEC", "params": []}))[1] == 7500
    assert (await d1.refused("POST", f"{path}/query", {"sql": "SELECT ?", "params": [[]]}))[
        1
    ] == 7400
    assert (await d1.refused("POST", f"{D1}/{ABSENT}/query", {"sql": "SELECT 1"}))[1] == 7404
    assert (await d1.refused("PATCH", path, {"read_replication": {"mode": "auto"}}))[1] == 7400


async def test_an_import_in_three_steps(d1: Databases) -> None:
    """Goal: the protocol of wrangler: an address, the file with its MD5, the ingestion; the address
    takes no other file."""
    path = f"{D1}/{await d1.make()}"
    sql = b"CREATE TABLE t (n); INSERT INTO t VALUES (1);"
    etag = hashlib.md5(sql, usedforsecurity=False).hexdigest()
    begun = await d1.world.ok("POST", f"{path}/import", {"action": "init", "etag": etag})
    bare = {"authorization": ""}
    wrong = await d1.world.client.put(begun["upload_url"], content=b"x", headers=bare)
    assert wrong.status_code == 400
    put = await d1.world.client.put(begun["upload_url"], content=sql, headers=bare)
    assert put.status_code == 200
    assert put.headers["etag"].strip('"') == etag
    ingest = {"action": "ingest", "filename": begun["filename"], "etag": etag}
    done = await d1.world.ok("POST", f"{path}/import", ingest)
    assert (done["status"], done["result"]["num_queries"]) == ("complete", 1)
    (answer,) = await d1.world.ok("POST", f"{path}/query", {"sql": "SELECT n FROM t"})
    assert answer["results"] == [{"n": 1}]
    assert (await d1.refused("POST", f"{path}/import", ingest))[1] == 7400
    polled = await d1.world.ok("POST", f"{path}/import", {"action": "poll"})
    assert polled["error"] == "Not currently importing anything."


@pytest.mark.parametrize("token", ["", "x", "a.b.c"])
async def test_an_address_that_was_not_given_out_is_refused(d1: Databases, token: str) -> None:
    """Goal: the signed text is the whole permission."""
    for method in ("PUT", "GET"):
        answer = await d1.world.call(method, f"{ROOT}/d1/files/{token}")
        assert answer.status_code in (403, 404)


async def test_an_import_address_is_none_for_export(d1: Databases) -> None:
    """Goal: what lets a file in lets nothing out."""
    path = f"{D1}/{await d1.make()}"
    begun = await d1.world.ok("POST", f"{path}/import", {"action": "init", "etag": "0" * 32})
    assert (await d1.world.client.get(begun["upload_url"])).status_code == 403


async def test_an_export_is_fetched_where_it_says(d1: Databases) -> None:
    """Goal: SQL as text, without a token."""
    path = f"{D1}/{await d1.make()}"
    await d1.world.ok("POST", f"{path}/query", {"sql": "CREATE TABLE t (n)"})
    wanted = {"output_format": "polling", "dump_options": {"tables": []}}
    done = await d1.world.ok("POST", f"{path}/export", wanted)
    assert done["status"] == "complete"
    found = await d1.world.client.get(done["result"]["signed_url"], headers={"authorization": ""})
    assert "CREATE TABLE t (n);" in found.text
    nothing = {"dump_options": {"no_schema": True, "no_data": True}}
    assert (await d1.refused("POST", f"{path}/export", nothing))[1] == 7400


async def test_time_travel_is_refused_by_name(d1: Databases) -> None:
    """Goal: what there is not, and what to do instead."""
    path = f"{D1}/{await d1.make()}/time_travel"
    for method, address in (("GET", "bookmark"), ("POST", "restore?bookmark=x")):
        _, code, text = await d1.refused(method, f"{path}/{address}")
        assert code == 7400
        assert "Time travel is not offered" in text
        assert "kythera backup create" in text


async def test_an_upload_needs_the_database_it_names(d1: Databases) -> None:
    """Goal: 10181 by name; with the database there it is deployed."""
    binding = {"name": "DB", "type": "d1", "id": ABSENT}
    address = f"{ROOT}/accounts/{ACCOUNT}/workers/scripts/hello"
    answer = await d1.world.call("PUT", address, files=form(bindings=[binding]))
    assert answer.json()["errors"][0]["code"] == 10181
    found = await d1.make()
    await d1.world.deploy(bindings=[{**binding, "id": found}])


async def test_a_database_of_another_machine_says_whose_it_is(d1: Databases) -> None:
    """Goal: never an empty database in its place."""
    found = await d1.make()
    record = d1.world.catalog.resource(ACCOUNT, "d1", found)
    assert record is not None
    moved = msgspec.structs.replace(record, fields={"machine": "other"})
    await d1.world.services.store.write([put(moved)])
    _, code, text = await d1.refused("POST", f"{D1}/{found}/query", {"sql": "SELECT 1"})
    assert code == 7500
    assert "kept by the machine 'other'" in text


async def test_a_token_for_one_worker_reaches_no_database(d1: Databases) -> None:
    """Goal: neither by the API, nor through code; what the worker was given before, it keeps."""
    found, other = await d1.make(), await d1.make("two")
    headers = bearer(await token(d1.world, "deploy", workers=["hello"]))
    listed = await d1.world.call("GET", D1, headers=headers)
    assert listed.json()["result"] == []
    for method, path, body in (
        ("POST", D1, {"name": "three"}),
        ("GET", f"{D1}/{found}", None),
        ("DELETE", f"{D1}/{found}", None),
        ("POST", f"{D1}/{found}/query", {"sql": "SELECT 1"}),
        ("POST", f"{D1}/{found}/export", {}),
    ):
        assert is_forbidden(await d1.world.call(method, path, body, headers=headers))
    address = f"{ROOT}/accounts/{ACCOUNT}/workers/scripts/hello"
    binding = {"name": "DB", "type": "d1", "id": found}
    tried = await d1.world.call("PUT", address, files=form(bindings=[binding]), headers=headers)
    assert is_forbidden(tried)
    await d1.world.deploy(bindings=[binding])
    again = await d1.world.call("PUT", address, files=form(bindings=[binding]), headers=headers)
    assert again.json()["success"]
    binding["id"] = other
    tried = await d1.world.call("PUT", address, files=form(bindings=[binding]), headers=headers)
    assert is_forbidden(tried)


async def test_a_store_that_is_away_leaves_no_name_behind(d1: Databases) -> None:
    """Goal: 503, said to be so; the same name can be made when it is back."""
    d1.store.away = True
    answer = await d1.world.call("POST", D1, {"name": "one"})
    assert answer.status_code == 503
    assert "did not answer" in answer.text
    d1.store.away = False
    assert await d1.world.ok("GET", D1) == []
    await d1.make()
