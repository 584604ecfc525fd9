"""D1 from a Worker on a real platform: every method, and what befalls the process behind it."""

import hashlib
import json
import os
import re
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.platforms import RunningPlatform, running
from tests.processes import children, wait_until

pytestmark = pytest.mark.real
CODE = """
const CALLS = {
  async all(db, { sql, params = [] }) { return db.prepare(sql).bind(...params).all(); },
  async run(db, { sql, params = [] }) { return db.prepare(sql).bind(...params).run(); },
  async first(db, { sql, params = [], column }) { return db.prepare(sql).bind(...params).first(column); },
  async raw(db, { sql, params = [], options }) { return db.prepare(sql).bind(...params).raw(options); },
  async batch(db, { sqls }) { return db.batch(sqls.map((sql) => db.prepare(sql))); },
  async exec(db, { sql }) { return db.exec(sql); },
  async dump(db) { return (await db.dump()).byteLength; },
  async blob(db) {
    await db.exec('CREATE TABLE blobs (b BLOB)');
    await db.prepare('INSERT INTO blobs VALUES (?)').bind(new Uint8Array([1, 2, 255])).run();
    return db.prepare('SELECT b FROM blobs').first('b');
  },
  async undefined(db) { return db.prepare('SELECT ?').bind(undefined).first(); },
  async session(db, { constraint, sql }) {
    const session = db.withSession(constraint);
    const before = session.getBookmark();
    const { results } = await session.prepare(sql).all();
    return { before, results, after: session.getBookmark() };
  },
  async query(db) { return db.query({ queries: [] }); },
};
export default { async fetch(request, env) {
  const { call, ...asked } = await request.json();
  try {
    return Response.json({ value: await CALLS[call](env.DB, asked) });
  } catch (error) {
    return Response.json({ error: error.message, cause: error.cause?.message });
  }
} };
"""


class App:
    """A worker with a database, on a platform."""

    def __init__(self, platform: RunningPlatform, name: str = "app") -> None:
        self.platform = platform
        self.name = name
        made = platform.call("POST", "/d1/database", json={"name": f"{name}-db"}).json()
        assert made["success"], made
        self.id: str = made["result"]["uuid"]
        platform.upload(name, CODE, bindings=[{"name": "DB", "type": "d1", "id": self.id}])

    def answer(self, call: str, **asked: Any) -> dict[str, Any]:
        """Call one method of the binding."""
        content = json.dumps({"call": call, **asked})
        answer = self.platform.get(self.name, "/", content=content)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def value(self, call: str, **asked: Any) -> Any:
        """Call one that works."""
        found = self.answer(call, **asked)
        assert "value" in found, found
        return found["value"]

    def error(self, call: str, **asked: Any) -> str:
        """Call one that does not."""
        return str(self.answer(call, **asked)["error"])

    def sql(self, sql: str, **more: Any) -> dict[str, Any]:
        """Ask the API."""
        path = f"/d1/database/{self.id}/query"
        found: dict[str, Any] = self.platform.call("POST", path, json={"sql": sql, **more}).json()
        return found


def store_pid(platform: RunningPlatform) -> int:
    """Return the process of the store."""
    for pid in children(platform.process.pid):
        command = ""
        with suppress(OSError):  # it has ended
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if re.search(r"--bind\0[^\0]*\0/data\0", command):
            return pid
    return 0


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Yield one for all tests that break nothing."""
    with running(tmp_path_factory.mktemp("d1") / "state") as platform:
        yield App(platform)


def test_statements_answer_as_cloudflares_do(app: App) -> None:
    """Goal: prepare, bind, run, all, first, raw; their results and meta as Cloudflare's."""
    app.value("run", sql="CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age REAL)")
    made = app.value("run", sql="INSERT INTO users (name, age) VALUES (?1, ?2)", params=["Ada", 36])
    assert made["success"] is True
    assert made["results"] == []
    meta = made["meta"]
    assert (meta["changes"], meta["last_row_id"], meta["changed_db"]) == (1, 1, True)
    assert meta["rows_written"] == 1
    assert meta["duration"] >= 0
    assert meta["size_after"] > 0
    app.value("run", sql="INSERT INTO users (name) VALUES (?)", params=[None])
    found = app.value("all", sql="SELECT * FROM users ORDER BY id")
    assert found["results"] == [
        {"id": 1, "name": "Ada", "age": 36},
        {"id": 2, "name": None, "age": None},
    ]
    assert found["meta"]["rows_read"] == 2
    assert app.value("first", sql="SELECT name FROM users WHERE id = ?", params=[1]) == {
        "name": "Ada"
    }
    assert app.value("first", sql="SELECT name FROM users", column="name") == "Ada"
    assert app.value("first", sql="SELECT 1 FROM users WHERE id = 9") is None
    assert app.value("raw", sql="SELECT id, name FROM users") == [[1, "Ada"], [2, None]]
    named = app.value("raw", sql="SELECT id FROM users", options={"columnNames": True})
    assert named == [["id"], [1], [2]]
    assert app.value("blob") == [1, 2, 255]


def test_batch_is_atomic(app: App) -> None:
    """Goal: all of a batch or nothing; each statement's own result."""
    app.value("exec", sql="CREATE TABLE batched (n INTEGER UNIQUE)")
    done = app.value("batch", sqls=["INSERT INTO batched VALUES (1)", "SELECT n FROM batched"])
    assert [each["results"] for each in done] == [[], [{"n": 1}]]
    failed = app.error("batch", sqls=["INSERT INTO batched VALUES (2)"] * 2)
    assert failed == (
        "D1_ERROR: UNIQUE constraint failed: batched.n: SQLITE_CONSTRAINT"
        " (extended: SQLITE_CONSTRAINT_UNIQUE)"
    )
    assert app.value("first", sql="SELECT COUNT(*) AS n FROM batched", column="n") == 1


def test_exec_runs_line_by_line(app: App) -> None:
    """Goal: a statement on each line; what fails is named by its line, and nothing of it stays."""
    done = app.value("exec", sql="CREATE TABLE executed (n);\nINSERT INTO executed VALUES (1);")
    assert done["count"] == 2
    assert app.error("exec", sql="INSERT INTO nowhere VALUES (1)") == (
        "D1_EXEC_ERROR: Error in line 1: INSERT INTO nowhere VALUES (1):"
        " no such table: nowhere: SQLITE_ERROR"
    )


@pytest.mark.parametrize(
    ("call", "asked", "words"),
    [
        ("all", {"sql": "SELECT * FROM nowhere"}, "D1_ERROR: no such table: nowhere: SQLITE_ERROR"),
        (
            "all",
            {"sql": "SELEC 1"},
            'D1_ERROR: near "SELEC": syntax error at offset 0: SQLITE_ERROR',
        ),
        ("all", {"sql": "SELECT ?"}, "D1_ERROR: Wrong number of parameter bindings for SQL query."),
        (
            "first",
            {"sql": "SELECT 1 AS a", "column": "b"},
            "D1_COLUMN_NOTFOUND: Column not found (b)",
        ),
        ("undefined", {}, "D1_TYPE_ERROR: Type 'undefined' not supported for value 'undefined'"),
        ("all", {"sql": "-- nothing"}, "D1_ERROR: No SQL statements detected."),
        ("dump", {}, "D1_DUMP_ERROR: Status + 404"),
        ("query", {}, "D1_ERROR: D1Database.query() requires the d1_binding_jsrpc"),
        ("session", {"constraint": "x", "sql": "SELECT 1"}, "D1_ERROR: Invalid bookmark: x"),
        ("all", {"sql": "SELECT key FROM _cf_KV"}, "D1_ERROR: access to _cf_KV.key is prohibited"),
        ("all", {"sql": "ATTACH 'x' AS y"}, "D1_ERROR: not authorized: SQLITE_AUTH"),
        ("run", {"sql": "BEGIN TRANSACTION"}, "D1_ERROR: To execute a transaction, please use"),
    ],
)
def test_errors_are_cloudflares(app: App, call: str, asked: dict[str, Any], words: str) -> None:
    """Goal: the texts that programs look for."""
    assert app.error(call, **asked).startswith(words)


def test_sessions_know_bookmarks(app: App) -> None:
    """Goal: each answer of a session moves its bookmark on; a later session may begin there."""
    first = app.value("session", constraint="first-primary", sql="SELECT 1 AS one")
    assert first["before"] is None
    assert first["results"] == [{"one": 1}]
    then = app.value("session", constraint=first["after"], sql="SELECT 2 AS two")
    assert then["before"] == first["after"] < then["after"]
    assert app.value("session", sql="SELECT 3 AS n")["after"] is not None


def test_what_a_worker_asks_is_counted(app: App) -> None:
    """Goal: status tells calls, failures and rows of each worker."""
    counted = App(app.platform, "counted")
    counted.value("exec", sql="CREATE TABLE c (n)")
    counted.value("batch", sqls=["INSERT INTO c VALUES (1), (2)", "SELECT n FROM c"])
    counted.error("all", sql="SELECT * FROM nowhere")

    def use() -> dict[str, int]:
        (machine,) = app.platform.status()["machines"]
        found = machine["stores"]["d1"]["workers"]
        return next((use["counts"] for use in found if use["worker"] == "counted"), {})

    wait_until(lambda: use().get("calls") == 3, "counted")
    assert use()["failed"] == 1
    assert use()["rows_read"] >= 2
    assert use()["rows_written"] >= 2


def test_databases_do_not_know_each_other(app: App) -> None:
    """Goal: another database of the same store is another file."""
    other = App(app.platform, "other")
    other.value("exec", sql="CREATE TABLE mine (n)")
    assert app.error("all", sql="SELECT * FROM mine").startswith("D1_ERROR: no such table")


def test_an_upload_to_a_database_that_is_not_there_is_refused(app: App) -> None:
    """Goal: named, and nothing deployed."""
    absent = "00000000-0000-4000-8000-000000000000"
    metadata = {
        "main_module": "w.js",
        "compatibility_date": "2026-01-01",
        "bindings": [{"name": "DB", "type": "d1", "id": absent}],
    }
    files = {
        "metadata": (None, json.dumps(metadata), "application/json"),
        "w.js": ("w.js", CODE, "application/javascript+module"),
    }
    answer = app.platform.call("PUT", "/workers/scripts/absent", files=files).json()
    assert answer["errors"] == [
        {
            "code": 10181,
            "message": f"D1 binding 'DB' references database '{absent}' which was not found.",
        }
    ]


def test_a_deleted_database_is_gone(app: App) -> None:
    """Goal: its file goes; a worker that still has the binding is told so."""
    gone = App(app.platform, "gone")
    gone.value("exec", sql="CREATE TABLE secret (n)")
    folder = app.platform.state / "data" / "d1" / "d1"
    n_files = len(list(folder.glob("*.sqlite")))
    path = f"/d1/database/{gone.id}"
    assert app.platform.call("DELETE", path).json()["success"]
    assert len(list(folder.glob("*.sqlite"))) == n_files - 1
    assert app.platform.call("GET", path).json()["errors"][0]["code"] == 7404
    assert gone.error("all", sql="SELECT 1").startswith("D1_ERROR: This database is not here")


def test_what_is_acknowledged_survives(tmp_path: Path) -> None:
    """Goal: `kill -9` of the store, of its agent and of the platform lose nothing; a call meanwhile
    waits or fails, and says which."""
    state = tmp_path / "state"
    with running(state) as platform:
        app = App(platform)
        app.value("exec", sql="CREATE TABLE kept (n INTEGER)")
        for n in range(20):
            app.value("run", sql="INSERT INTO kept VALUES (?)", params=[n])
            if n % 5 == 4:
                pid = store_pid(platform)
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: store_pid(platform) not in (0, pid), "replaced")  # type: ignore[misc]
        assert app.value("first", sql="SELECT COUNT(*) AS n FROM kept", column="n") == 20
        platform.kill()
    with running(state) as platform:
        app.platform = platform
        path = f"/d1/database/{app.id}"
        wait_until(lambda: platform.call("GET", path).status_code == 200, "the API is there")
        assert app.value("first", sql="SELECT COUNT(*) AS n FROM kept", column="n") == 20


TRIGGER = """CREATE TRIGGER IF NOT EXISTS t AFTER INSERT ON split BEGIN
UPDATE split SET n = CASE WHEN n > 1 THEN 1 ELSE 2 END; SELECT 'END;'; END"""
ONE = st.sampled_from(
    [
        "SELECT 'a;b'",
        'SELECT 1 AS "x;y"',
        "SELECT 2 -- with; a word\n",
        "SELECT /* ; */ 3",
        "SELECT `four;` FROM (SELECT 4 AS `four;`)",
        "SELECT [5;] FROM (SELECT 5 AS [5;])",
        "SELECT CASE WHEN 1 THEN 'end' END",
        "SELECT 'it''s;'",
        "CREATE VIEW IF NOT EXISTS v AS SELECT 1",
        TRIGGER,
    ]
)
BETWEEN = st.sampled_from([";", ";;", "\n;\n", "; -- and so on;\n", "/* x; */;", " ; "])


@given(parts=st.lists(st.tuples(ONE, BETWEEN), min_size=1, max_size=6), tail=BETWEEN)
@settings(max_examples=60, deadline=None)
def test_a_text_is_split_where_sqlite_would(
    app: App, parts: list[tuple[str, str]], tail: str
) -> None:
    """Goal: as many results as statements, whatever their strings, comments and triggers hold.
    Method: SQLite's own `sqlite3_complete` tells where each one ends."""
    app.sql("CREATE TABLE IF NOT EXISTS split (n)")
    for one, _ in parts:
        assert sqlite3.complete_statement(f"{one};")
    text = "".join(one + between for one, between in parts)
    found = app.sql(text + tail)
    assert found["success"], (text, found)
    assert len(found["result"]) == len(parts), (text, found)


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r"
ENORMOUS = ENDLESS.replace("COUNT(*)", "n, hex(zeroblob(1000))")


@pytest.mark.parametrize("sql", [ENDLESS, ENORMOUS])
def test_a_statement_without_end_harms_nobody_for_long(tmp_path: Path, sql: str) -> None:
    """Goal: one that never answers, or answers without end, is ended; the databases go on."""
    limits = ("--limit", "store_silent_ms_max=2000", "--limit", "store_heap_mib_max=256")
    with running(tmp_path / "state", *limits) as platform:
        app = App(platform)
        app.value("exec", sql="CREATE TABLE kept (n)")
        last = store_pid(platform)
        assert app.error("all", sql=sql) == "Network connection lost."
        wait_until(lambda: store_pid(platform) not in (0, last), "replaced", deadline_s=20)
        assert app.value("all", sql="SELECT COUNT(*) AS n FROM kept")["results"] == [{"n": 0}]


def test_a_large_file_goes_in_whole_and_comes_out(app: App) -> None:
    """Goal: as large as may be, within the store's memory; a statement has SQLite's limit."""
    rows = ",".join(f"('{'x' * 900}')" for _ in range(100))
    insert = f"INSERT INTO large VALUES {rows};"  # noqa: S608 (our own text)
    sql = f"CREATE TABLE large (t);\n{insert * 1100}".encode()
    etag = hashlib.md5(sql, usedforsecurity=False).hexdigest()
    path = f"/d1/database/{app.id}/import"
    begun = app.platform.call("POST", path, json={"action": "init", "etag": etag}).json()["result"]
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert client.put(begun["upload_url"], content=sql).status_code == 200
        address = f"{app.platform.api}/accounts/{app.platform.account_id}{path}"
        done = client.post(
            address,
            json={"action": "ingest", "filename": begun["filename"], "etag": etag},
            headers={"authorization": f"Bearer {app.platform.token}"},
        ).json()["result"]
    assert done["success"], done["error"]
    assert app.value("first", sql="SELECT COUNT(*) AS n FROM large", column="n") == 110_000
    assert len(sql) > 90 * 1024 * 1024
    wanted = {"output_format": "polling", "dump_options": {"tables": ["large"]}}
    path = f"/d1/database/{app.id}/export"
    found = app.platform.call("POST", path, json=wanted).json()["result"]["result"]
    with httpx.Client(trust_env=False, timeout=60) as client:
        text = client.get(found["signed_url"]).text
    assert text.count("INSERT INTO") == 110_000
    assert not list((app.platform.state / "transfers").iterdir())
