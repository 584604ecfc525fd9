"""docs/bindings.md: what each method of each binding does here, made from the tables beside this.

A table (`<binding>.toml`) has `title`, `type`, and a `[[method]]` for each method: its `name`, a `verdict`
(`works`, `differs`, `refused`), the `test` that shows it, and a `difference`, which nobody may leave out
who says that something differs.
"""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PAGE = ROOT / "docs/bindings.md"
VERDICTS = ("works", "differs", "refused")
HEAD = """\
# Bindings: what works, and what differs

Made by `tests/bindings`, from what the tests show; a test fails when this page says anything else.
*works*: as at Cloudflare, as far as the named test goes. *differs*: the difference is spelled out.
*refused*: by name, with a clear error, never dropped.
"""


@dataclass(frozen=True)
class Method:
    """One row."""

    name: str
    verdict: str
    test: str
    difference: str = ""


@dataclass(frozen=True)
class Table:
    """One binding."""

    title: str
    type: str
    methods: tuple[Method, ...]


def read(path: Path) -> Table:
    """Read one table. Raises TypeError for keys that there are none of."""
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    methods = tuple(Method(**row) for row in found["method"])
    return Table(found["title"], found["type"], methods)


def tables() -> list[Table]:
    """Return all tables, by title."""
    return sorted((read(path) for path in FOLDER.glob("*.toml")), key=lambda table: table.title)


def page(found: list[Table]) -> str:
    """Return the page."""
    counts = {v: sum(m.verdict == v for t in found for m in t.methods) for v in VERDICTS}
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return "\n".join([HEAD, f"In all: {total}.", *(_section(table) for table in found)])


def _section(table: Table) -> str:
    rows = [
        f"| {_cell(m.name)} | {m.verdict} | {_cell(m.difference)} | `{m.test}` |"
        for m in table.methods
    ]
    head = ["| method | verdict | difference | shown by |", "| --- | --- | --- | --- |"]
    return "\n".join(["", f"## {table.title} (`{table.type}`)", "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def complaints(table: Table, root: Path = ROOT) -> list[str]:
    """Return what is wrong with a table: rows that say too little, tests that are not there."""
    found = []
    for method in table.methods:
        about = f"{table.title}: {method.name}"
        if method.verdict not in VERDICTS:
            found.append(f"{about}: {method.verdict!r} is no verdict")
        if method.verdict == "differs" and not method.difference:
            found.append(f"{about}: differs, but how?")
        if not _is_test(method.test, root):
            found.append(f"{about}: there is no test {method.test}")
    return found


def _is_test(name: str, root: Path) -> bool:
    file, _, function = name.partition("::")
    path = root / file
    if not file.startswith("tests/") or not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return function.partition("[")[0] in names
