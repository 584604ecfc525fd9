"""docs/bindings.md says what the tests show."""

import os
from pathlib import Path

import pytest

from tests.bindings.page import PAGE, Method, Table, complaints, page, tables


@pytest.mark.parametrize("table", tables(), ids=lambda table: str(table.title))
def test_each_row_says_enough_and_names_a_test_that_exists(table: Table) -> None:
    """Nothing is promised that nobody shows."""
    assert complaints(table) == []


def test_the_page_is_made_from_the_tables() -> None:
    """GOLDEN_WRITE=1 writes it anew."""
    made = page(tables())
    if os.environ.get("GOLDEN_WRITE"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made


@pytest.mark.parametrize(
    "method",
    [
        Method("get", "perhaps", "tests/test_a.py::test_it"),
        Method("get", "differs", "tests/test_a.py::test_it"),
        Method("get", "works", "tests/test_a.py::test_other"),
        Method("get", "works", "tests/test_b.py::test_it"),
    ],
)
def test_a_row_that_says_too_little_is_found(method: Method, tmp_path: Path) -> None:
    """The check bites."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("def test_it() -> None: ...\n")
    assert len(complaints(Table("KV", "kv_namespace", (method,)), tmp_path)) == 1


def test_a_row_that_says_enough_draws_no_complaint(tmp_path: Path) -> None:
    """The check lets go."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("async def test_it() -> None: ...\n")
    method = Method("get", "differs", "tests/test_a.py::test_it[1]", "slower")
    assert complaints(Table("KV", "kv_namespace", (method,)), tmp_path) == []
