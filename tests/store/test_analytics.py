"""Analytics Engine: what was acknowledged is found again, and SQL reaches nothing else."""

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.limits import Limits
from kythera.store.analytics import AnalyticsStore, NotAPoint, read_point
from kythera.store.analytics_files import dataset_folder
from kythera.store.analytics_order import Order, Outcome
from kythera.store.analytics_query import run, split_format, written
from tests.store.asking import asking, pass_to

pytestmark = pytest.mark.anyio
NOW_NS = 1_795_457_289_166_000_128


def event(index: str = "i", *, blob: str = "b", double: float = 1.5) -> bytes:
    """Return a point as workerd sends it: texts as lists of bytes, all doubles."""
    doubles = {f"double{n}": 0 for n in range(2, 21)}
    texts = {"index1": list(index.encode()), "blob1": list(blob.encode())}
    head = {"accountId": "1", "dataset": [99], "schemaVersion": "0", "timestamp": str(NOW_NS)}
    return json.dumps({**head, **texts, "double1": double, **doubles}).encode()


def ask(folder: Path, sql: str, account: str = "a", rows_max: int = 100) -> Outcome:
    """Answer a query in this process."""
    return run(Order(str(folder), account, sql, 128, rows_max))


def rows(folder: Path, sql: str, **more: Any) -> list[dict[str, Any]]:
    """Return a query's rows."""
    outcome = ask(folder, sql, **more)
    assert not outcome.error, outcome.error
    found: list[dict[str, Any]] = json.loads(outcome.text)["data"]
    return found


async def write(client: httpx.AsyncClient, body: bytes, dataset: str = "d-1") -> int:
    """Write a point as workerd does."""
    headers = pass_to("analytics", dataset)
    return (await client.post("http://store/", content=body, headers=headers)).status_code


async def test_points_are_found_as_they_were_written(tmp_path: Path) -> None:
    """Goal: every field, of several datasets, at once and after the store was killed."""
    store = AnalyticsStore(tmp_path, Limits())
    async with asking(store, "analytics") as client:
        assert await write(client, event("first", blob="ü\n'")) == 204
        assert await write(client, event("other"), "d_2") == 204
    again = AnalyticsStore(tmp_path, Limits())  # the first one never closed
    async with asking(again, "analytics") as client:
        await write(client, event("second", double=2))
    found = rows(tmp_path, 'SELECT * FROM "d-1" ORDER BY index1')
    assert [row["index1"] for row in found] == ["first", "second"]
    assert (found[0]["blob1"], found[0]["blob20"], found[0]["double1"]) == ("ü\n'", "", 1.5)
    assert (found[0]["timestamp"], found[0]["_sample_interval"]) == ("2026-11-23 18:08:09", 1)
    assert rows(tmp_path, "SHOW TABLES") == [{"name": "d-1"}, {"name": "d_2"}]
    assert rows(tmp_path, "SELECT count() AS n FROM d_2") == [{"n": 1}]
    store.close()
    again.close()


async def test_many_at_once_share_a_write_and_none_is_lost(tmp_path: Path) -> None:
    """Goal: 200 concurrent points, each acknowledged and found once."""
    store = AnalyticsStore(tmp_path, Limits())
    async with asking(store, "analytics") as client, anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(write, client, event(f"{number}"))
    assert rows(tmp_path, 'SELECT count(DISTINCT index1) AS n, count() AS m FROM "d-1"') == [
        {"n": 200, "m": 200}
    ]
    store.close()


async def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    """Goal: what a lost machine was writing costs that point alone."""
    store = AnalyticsStore(tmp_path, Limits())
    async with asking(store, "analytics") as client:
        await write(client, event("whole"))
    (segment,) = dataset_folder(tmp_path, "a", "d-1").iterdir()
    with segment.open("ab") as file:
        file.write(b'{"timestamp":1795457289166000128,"index')
    assert rows(tmp_path, 'SELECT index1 FROM "d-1"') == [{"index1": "whole"}]
    store.close()


async def test_what_is_old_or_too_much_is_forgotten(tmp_path: Path) -> None:
    """Goal: the oldest segments go, never the one that is being written."""
    clock = [1_800_000_000.0]
    store = AnalyticsStore(tmp_path, Limits(analytics_bytes_max=1), lambda: clock[0])
    async with asking(store, "analytics") as client:
        await write(client, event("old"))
        await store.sweep()
        assert len(list(tmp_path.glob("*/*/*"))) == 1
        clock[0] += 1_000
        await store.sweep()
        assert list(tmp_path.glob("*/*/*")) == []
        await write(client, event("new"))
    assert [row["index1"] for row in rows(tmp_path, 'SELECT index1 FROM "d-1"')] == ["new"]
    store.close()


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """Return a folder with a dataset of account `a` and one of account `b`."""
    folder = tmp_path / "analytics"
    store = AnalyticsStore(folder, Limits())
    for account in ("a", "b"):
        for index in ("x", "y"):
            await store.add(account, "hits", {"timestamp": NOW_NS, "index1": index, "double1": 2})
    store.close()
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    return folder


async def test_cloudflares_words_are_understood(filled: Path) -> None:
    """Goal: a query as its documentation has them."""
    query = """
        SELECT index1 AS page, SUM(_sample_interval * double1) AS total,
               sumIf(double1, index1 = 'x') AS xs, intDiv(5, 2) AS two, if(1 = 1, 1, 0) AS one,
               toStartOfInterval(timestamp, INTERVAL '5' MINUTE) AS t
        FROM hits WHERE timestamp > NOW() - INTERVAL '30000' DAY
          AND timestamp > toDateTime('2026-01-01 00:00:00')
        GROUP BY page, t ORDER BY page LIMIT 10
    """
    first, second = rows(filled, query)
    assert (first["page"], first["total"], first["xs"], first["two"]) == ("x", 2, 2, 2)
    assert (first["t"], second["page"]) == ("2026-11-23 18:05:00", "y")


async def test_formats_are_those_of_cloudflare(filled: Path) -> None:
    """Goal: JSON with its meta, a line for each row, or columns with tabs."""
    query = "SELECT index1, double1 FROM hits ORDER BY index1"
    whole = json.loads(ask(filled, query).text)
    assert whole["meta"] == [
        {"name": "index1", "type": "String"},
        {"name": "double1", "type": "Float64"},
    ]
    assert (whole["rows"], len(whole["data"])) == (2, 2)
    lines = ask(filled, f"{query} FORMAT JSONEachRow").text.splitlines()
    assert [json.loads(line)["index1"] for line in lines] == ["x", "y"]
    assert ask(filled, f"{query}\nformat TabSeparated;").text == "x\t2.0\ny\t2.0\n"
    assert "FORMAT Parquet" in ask(filled, f"{query} FORMAT Parquet").error


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('%secret%')",
        "SELECT * FROM '%secret%'",
        "SELECT * FROM read_csv('%secret%')",
        "SELECT * FROM glob('%folder%/b/**')",
        "SELECT * FROM read_json('%folder%/b/*/*.ndjson')",
        "SELECT * FROM read_json('%folder%/a/../b/*/*.ndjson')",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '%folder%/a/out'",
        "COPY hits TO '%folder%/a/out'",
        "ATTACH '%folder%/a/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW hits",
        "EXPORT DATABASE '%folder%/a/out'",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT 1; ATTACH '%folder%/a/x.db'",
        "SELECT getenv('HOME')",
        "SELECT * FROM query('ATTACH ''x.db''')",
        "SELECT * FROM nowhere",
        "SELEKT 1",
        "",
    ],
)
async def test_a_query_reaches_nothing_but_its_accounts_points(filled: Path, sql: str) -> None:
    """Goal: no file, no other account, no network, no setting, nothing written. Method: ask for each
    in every way that DuckDB has."""
    before = sorted(filled.parent.rglob("*"))
    asked = sql.replace("%secret%", str(filled.parent / "secret.csv"))
    outcome = ask(filled, asked.replace("%folder%", str(filled)))
    assert outcome.error, outcome.text
    assert str(filled) not in outcome.error
    assert sorted(filled.parent.rglob("*")) == before


async def test_a_result_has_so_many_rows_and_no_more(filled: Path) -> None:
    """Goal: refused with what to do, instead of cut unseen."""
    assert "LIMIT" in ask(filled, "SELECT * FROM range(101)", rows_max=100).error
    assert len(rows(filled, "SELECT * FROM range(100)", rows_max=100)) == 100
    assert "memory" in ask(filled, "SELECT list(range) FROM range(100000000)").error.lower()


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_point_or_refused(body: bytes) -> None:
    """Goal: no body makes anything but NotAPoint."""
    for text in (body, b'{"timestamp":"1","blob1":' + body + b"}"):
        try:
            point = read_point(text)
        except NotAPoint:
            continue
        assert set(point) >= {"timestamp"}


@given(st.text())
def test_a_format_is_split_off_or_refused_by_name(sql: str) -> None:
    """Goal: what stands before it stays as it was."""
    assert split_format(f"{sql} FORMAT JSON")[1] == "JSON"
    assert split_format(f"{sql} FORMAT JSON")[0].rstrip() == sql.rstrip() or "FORMAT" in sql.upper()


def test_columns_with_tabs_are_told_apart() -> None:
    """Goal: a tab or line end within a value is escaped, and nothing has a word of its own."""
    columns = [("a", "VARCHAR"), ("b", "VARCHAR")]
    assert written(columns, [("x\ty\n", None)], "TabSeparated") == "x\\ty\\n\t\\N\n"
