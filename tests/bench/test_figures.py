"""A bench that judges wrongly is worse than none: its pure parts, checked by example."""

import pytest

from bench.figures import Figure, Machine, markdown, median, number, percentile, table
from bench.wrk import Round, parse

MACHINE = Machine(cores=2, processor="p", memory_gib=4, kernel="6.1", architecture="x86_64")


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [(1.5, 1.5, "PASS"), (1.51, 1.5, "MISS"), (9.0, None, ""), (None, None, "MISS")],
)
def test_a_figure_is_judged_by_the_most_it_may_be(
    value: float | None, target: float | None, verdict: str
) -> None:
    """Goal: a figure at its target passes; none at all is a miss. Method: examples."""
    assert Figure(bench="b", name="n", value=value, target=target).verdict == verdict


def test_a_percentile_is_one_of_the_values() -> None:
    """Goal: nearest rank, also at the ends. Method: the numbers from 1 to 50."""
    values = [float(n) for n in range(50, 0, -1)]
    assert (median(values), percentile(values, 0.95), percentile(values, 1)) == (25, 48, 50)
    assert percentile(values, 0) == 1


def test_numbers_keep_the_digits_worth_reading() -> None:
    """Goal: a table that can be read. Method: examples."""
    given = (0, 1.234, 45.67, 1234.5, None)
    assert [number(v) for v in given] == ["0", "1.23", "45.7", "1,234", "not measured"]


def test_a_note_hangs_below_its_figure_and_stands_in_the_document() -> None:
    """Goal: nothing measured is left out. Method: one figure in both forms."""
    figure = Figure(bench="cold", name="median", value=20.0, unit="ms", target=60, note="of 50")
    assert table([figure]).splitlines()[1:] == [
        "cold   median  20 ms     ≤ 60 ms  PASS",
        "       of 50",
    ]
    assert "| cold | median | 20 ms | ≤ 60 ms | PASS | of 50 |" in markdown([figure], MACHINE)


def test_every_kind_of_failure_that_wrk_reports_is_counted() -> None:
    """Goal: no error is overlooked. Method: a report with all of them."""
    report = """\
  100 requests in 500.00ms, 1.00MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:    200.00
"""
    assert parse(report) == Round(requests=100, seconds=0.5, failures=15)
