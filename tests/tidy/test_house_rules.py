"""The repository keeps its own rules; and each rule is shown to bite by a sample that breaks it."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.tidy.checks import (
    ALLOWED,
    BINARY,
    CHECKS,
    FUNCTION_LINES_MEDIAN_MAX,
    Source,
    check_docstrings,
    check_doors,
    check_names,
    check_no_mocks,
    check_sizes,
    check_tests,
    check_text,
    median_function,
    sources_below,
)

ROOT = Path(__file__).resolve().parents[2]
Check = Callable[[Source], Iterator[str]]


def committed() -> list[str]:
    """Return the files that are, or would be, in the repository (git's own ignore rules)."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({name for name in listing.stdout.splitlines() if (ROOT / name).is_file()})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_python_file_keeps_the_rule(check: Check) -> None:
    """Goal: the house rules hold. Method: read every file of the repository."""
    complaints = [line for source in sources_below(ROOT, committed()) for line in check(source)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_median_function_of_the_product_is_short() -> None:
    """Goal: many small functions. Method: the median over src/."""
    product = [source for source in sources_below(ROOT, committed()) if source.is_product]
    assert median_function(product) < FUNCTION_LINES_MEDIAN_MAX


def test_no_file_is_unfinished_or_tied_to_one_machine() -> None:
    """Goal: a clone works anywhere. Method: every text file, locks included."""
    complaints = [
        line
        for name in committed()
        if PurePosixPath(name).suffix not in BINARY
        for line in check_text(name, (ROOT / name).read_text(errors="replace"))
    ]
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_exception_to_a_rule_is_still_needed() -> None:
    """Goal: the list of exceptions does not outlive its reasons. Method: look for each."""
    for path, name in ALLOWED:
        source = ROOT / path
        assert source.is_file(), f"{path} is gone; remove its exception"
        assert name.rpartition(".")[2] in source.read_text(), f"{path} does not need {name}"


LONG_FUNCTION = '"""M."""\ndef f() -> None:\n    """F."""\n' + "    x = 1\n" * 70
LONG_MODULE = '"""M."""\n' + "x = 1\n" * 601
BAD: list[tuple[Check, str, str]] = [
    (check_sizes, "src/a.py", LONG_FUNCTION),
    (check_sizes, "src/a.py", LONG_MODULE),
    (check_docstrings, "src/a.py", "x = 1\n"),
    (check_docstrings, "src/a.py", '"""M."""\ndef f() -> None: ...\n'),
    (check_docstrings, "src/a.py", '"""M."""\nclass C: "C."\nclass D: pass\n'),
    (check_docstrings, "src/a.py", '"""M."""\nclass C:\n    "C."\n    def m(self): ...\n'),
    (check_docstrings, "tests/test_a.py", '"""M."""\ndef test_a_b_c() -> None: ...\n'),
    (check_names, "src/kythera/run/cell_utils.py", '"""M."""\n'),
    (check_names, "src/kythera/run/cell.py", '"""M."""\nclass CellManager: ...\n'),
    (check_tests, "tests/test_a.py", '"""M."""\ndef test_cell() -> None: ...\n'),
    (check_doors, "src/kythera/run/a.py", "import time\ntime.time()\n"),
    (check_doors, "src/kythera/run/a.py", "from time import time\n"),
    (check_doors, "src/kythera/run/a.py", "import os\nos.fork()\n"),
    (check_doors, "src/kythera/run/a.py", "import subprocess\n"),
    (check_doors, "src/kythera/run/a.py", "from random import choice\n"),
    (check_doors, "src/kythera/run/a.py", "import datetime\ndatetime.datetime.now()\n"),
    (check_doors, "src/kythera/run/a.py", "import asyncio\nasyncio.create_task(f())\n"),
    (check_no_mocks, "tests/test_a.py", "from unittest.mock import patch\n"),
    (check_no_mocks, "tests/test_a.py", "from unittest import mock\n"),
    (check_no_mocks, "tests/test_a.py", "import unittest.mock\n"),
]


@pytest.mark.parametrize(("check", "path", "text"), BAD)
def test_a_planted_fault_is_found(check: Check, path: str, text: str) -> None:
    """Goal: no rule is toothless. Method: one sample for each way to break it."""
    assert list(check(Source(path, text)))


GOOD = '''"""A module."""

def f(now: float) -> float:
    """Return the time it was given."""
    return now
'''


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_clean_file_draws_no_complaint(check: Check) -> None:
    """Goal: no rule cries wolf. Method: a small file that keeps all of them."""
    assert not list(check(Source("src/kythera/run/a.py", GOOD)))


@pytest.mark.parametrize(
    "line",
    [
        "# TO" + "DO: later",
        "FIX" + "ME",
        '"resolved": "https://registry' + '.npmjs.org/x"',
        "path = '/" + "work/main'",
        "open('/" + "tmp/x')",
    ],
)
def test_a_planted_line_is_found(line: str) -> None:
    """Goal: unfinished lines and addresses are seen. Method: one of each kind."""
    assert list(check_text("a.txt", line))


@pytest.mark.parametrize(
    "line",
    ["GET /accounts/{id}/workers", "https://example.com/home/page", "$HOME/work/x", "a hacked"],
)
def test_an_innocent_line_draws_no_complaint(line: str) -> None:
    """Goal: URLs and words may pass. Method: lines that look alike."""
    assert not list(check_text("a.txt", line))


def test_the_median_counts_code_and_not_docstrings() -> None:
    """Goal: docstrings are free. Method: a function of two lines with a long docstring."""
    text = 'def f():\n    """A\n\n    long\n    one.\n    """\n    return 1\n'
    assert median_function([Source("src/a.py", text)]) == 2


def test_each_claim_about_security_names_a_test_that_exists() -> None:
    """Goal: docs/security.md promises nothing that nobody shows. Method: each row of what holds
    names test files, and they are there."""
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = page.partition("## What holds")[2].partition("## What does not")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    claims = [row for row in rows if not row.startswith("| ---")]
    assert len(claims) > 10
    for claim in claims:
        named = re.findall(r"`(tests/[^`]+\.py)`", claim)
        assert named, f"no test: {claim}"
        assert [name for name in named if not (ROOT / name).is_file()] == [], claim
