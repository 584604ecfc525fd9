"""One SQL query over an account's data points, as a process of its own: a JSON order on stdin, the answer
on stdout. DuckDB does the work; this shuts it in.

Promises: it reads the account's own segments and no other file, reaches no network, writes nothing
(the query is one SELECT; DuckDB's own switches, and the process's limits, hold it to that), and ends
when its memory or rows are used up. The caller's deadline ends it otherwise.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from kythera.store.analytics_files import BLOBS, DOUBLES, datasets_of
from kythera.store.analytics_order import Order, Outcome

FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
TEXT_BYTES_MAX = 1024 * 1024
FORMATS = ("JSON", "JSONEachRow", "TabSeparated")
MACROS = (
    "now() AS CAST(get_current_timestamp() AS TIMESTAMP)",
    "toDateTime(x) AS CAST(x AS TIMESTAMP)",
    "toStartOfInterval(t, i) AS time_bucket(i, t)",
    "toStartOfMinute(t) AS date_trunc('minute', t)",
    "toStartOfHour(t) AS date_trunc('hour', t)",
    "toStartOfDay(t) AS date_trunc('day', t)",
    "toStartOfWeek(t) AS date_trunc('week', t)",
    "toStartOfMonth(t) AS date_trunc('month', t)",
    "toUnixTimestamp(t) AS CAST(epoch(t) AS UINTEGER)",
    "toUInt32(x) AS CAST(x AS UINTEGER)",
    "toUInt8(x) AS CAST(x AS UTINYINT)",
    "toString(x) AS CAST(x AS VARCHAR)",
    "intDiv(a, b) AS a // b",
    "sumIf(x, c) AS sum(CASE WHEN c THEN x ELSE 0 END)",
    "avgIf(x, c) AS avg(CASE WHEN c THEN x END)",
    "uniq(x) AS count(DISTINCT x)",
    "empty(x) AS x = ''",
    "notEmpty(x) AS x <> ''",
)
"""What Cloudflare's SQL calls otherwise than DuckDB's."""
TYPES = {
    "BIGINT": "Int64",
    "HUGEINT": "Int128",
    "INTEGER": "Int32",
    "UINTEGER": "UInt32",
    "DOUBLE": "Float64",
    "VARCHAR": "String",
    "TIMESTAMP": "DateTime",
    "BOOLEAN": "Bool",
    "UBIGINT": "UInt64",
    "UTINYINT": "UInt8",
    "DATE": "Date",
}


class NotAQuery(Exception):
    """It is not one SELECT."""


def split_format(sql: str) -> tuple[str, str]:
    """Split `… FORMAT JSONEachRow` off. Pure. Raises NotAQuery for a format that is not offered."""
    found = FORMAT.search(sql)
    if found is None:
        return sql, FORMATS[0]
    for name in FORMATS:
        if name.lower() == found[1].lower():
            return sql[: found.start()], name
    raise NotAQuery(f"FORMAT {found[1]} is not offered; {', '.join(FORMATS)} are.")


def run(order: Order) -> Outcome:
    """Answer one query."""
    try:
        sql, form = split_format(order.sql)
        with duckdb.connect(":memory:") as database:
            _prepare(database, order)
            _refuse_other_than_one_select(database, sql)
            result = database.execute(sql)
            columns = [(str(name), str(kind)) for name, kind, *_ in result.description or []]
            rows = result.fetchmany(order.rows_max + 1)
    except NotAQuery as error:
        return Outcome(error=str(error))
    except duckdb.Error as error:
        return Outcome(error=str(error).replace(order.folder, "…"))
    if len(rows) > order.rows_max:
        return Outcome(error=f"The result has more than {order.rows_max:,} rows: add a LIMIT.")
    text = written(columns, rows, form)
    if len(text.encode()) > TEXT_BYTES_MAX:
        return Outcome(error=f"The result has more than {TEXT_BYTES_MAX:,} bytes: add a LIMIT.")
    return Outcome(text=text, format=form)


def _prepare(database: duckdb.DuckDBPyConnection, order: Order) -> None:
    own = Path(order.folder) / order.account
    settings = {
        "TimeZone": "'UTC'",
        "temp_directory": "''",
        "threads": "1",
        "memory_limit": f"'{order.memory_mib}MiB'",
        "allowed_directories": f"[{_literal(f'{own}/')}]",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "enable_external_access": "false",
        "errors_as_json": "false",
    }
    for name, value in settings.items():
        database.execute(f"SET {name} = {value}")
    for dataset, segments in datasets_of(Path(order.folder), order.account).items():
        database.execute(_view(dataset, segments))
    for macro in MACROS:
        database.execute(f"CREATE MACRO {macro}")
    database.execute("SET lock_configuration = true")


def _view(dataset: str, segments: Sequence[Path]) -> str:
    files = ", ".join(_literal(str(path)) for path in segments)
    kinds = {"timestamp": "BIGINT", "index1": "VARCHAR"}
    kinds |= dict.fromkeys(DOUBLES, "DOUBLE") | dict.fromkeys(BLOBS, "VARCHAR")
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in kinds.items())
    shown = [f"coalesce({name}, 0) AS {name}" for name in DOUBLES]
    shown += [f"coalesce({name}, '') AS {name}" for name in ("index1", *BLOBS)]
    name = '"' + dataset.replace('"', '""') + '"'
    return (
        f"CREATE VIEW {name} AS SELECT {_literal(dataset)} AS dataset,"  # noqa: S608 (quoted)
        " CAST(make_timestamp_ns(timestamp) AS TIMESTAMP) AS timestamp,"
        f" CAST(1 AS UINTEGER) AS _sample_interval, {', '.join(shown)}"
        f" FROM read_json([{files}], columns = {{{columns}}}, format = 'newline_delimited',"
        " ignore_errors = true) WHERE timestamp IS NOT NULL"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _refuse_other_than_one_select(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = database.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise NotAQuery("A query is one SELECT, or SHOW TABLES.")


def written(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]], form: str) -> str:
    """Return a result as text. Pure."""
    names = [name for name, _ in columns]
    if form == "TabSeparated":
        return "".join("\t".join(map(_cell, row)) + "\n" for row in rows)
    shown = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
    if form == "JSONEachRow":
        return "".join(_json(row) + "\n" for row in shown)
    meta = [{"name": name, "type": TYPES.get(kind, kind)} for name, kind in columns]
    count = len(rows)
    return _json({"meta": meta, "data": shown, "rows": count, "rows_before_limit_at_least": count})


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case date():
            return value.isoformat()
        case Decimal():
            return float(value)
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
    return str(value)


def _cell(value: Any) -> str:
    text = "\\N" if value is None else str(_plain(value))
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n") if value else text


def main() -> int:
    """Read an order, answer it."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(run(order)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
