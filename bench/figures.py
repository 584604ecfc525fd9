"""Figures: what was measured, what was promised, and how they are shown.

Pure. A figure without a target is a fact and is not judged; one that could not be measured is a
miss, never left out.
"""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True):
    """One measured number. `target` is the most it may be (None: not judged)."""

    bench: str
    name: str
    value: float | None
    unit: str = ""
    target: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """PASS, MISS, or nothing when there is no target."""
        if self.value is None:
            return "MISS"
        if self.target is None:
            return ""
        return "PASS" if self.value <= self.target else "MISS"


class Machine(Struct, frozen=True, kw_only=True):
    """What a reader must know about the machine to judge the figures."""

    cores: int
    processor: str
    memory_gib: int
    kernel: str
    architecture: str


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    assert ordered, "a percentile of nothing"
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the middle value (the lower one of two)."""
    return percentile(values, 0.5)


def number(value: float | None) -> str:
    """Return a number with as many digits as are worth reading."""
    if value is None:
        return "not measured"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _row(figure: Figure) -> tuple[str, ...]:
    target = "" if figure.target is None else f"≤ {number(figure.target)} {figure.unit}".strip()
    value = f"{number(figure.value)} {figure.unit}".strip()
    return figure.bench, figure.name, value, target, figure.verdict, figure.note


COLUMNS = ("bench", "figure", "measured", "target", "verdict", "note")


def table(figures: Sequence[Figure]) -> str:
    """Return figures as a table for a terminal; a note hangs below its figure."""
    rows = [COLUMNS[:-1], *(_row(figure)[:-1] for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row, note in zip(rows, ["", *(figure.note for figure in figures)], strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if note:
            lines.append(" " * (widths[0] + 2) + note)
    return "\n".join(lines)


def markdown(figures: Sequence[Figure], machine: Machine) -> str:
    """Return the page docs/bench.md."""
    head = (
        "# Bench\n\n"
        "What Kythera promises, as `make bench` measured it last. Written by\n"
        "`python -m bench --write-docs`; do not edit.\n\n"
        f"The machine: {machine.cores} cores ({machine.processor}, {machine.architecture}), "
        f"{machine.memory_gib} GiB of memory, Linux {machine.kernel}. The load generator runs on\n"
        "the same cores, so throughput says little; ratios, counts and private memory do.\n"
    )
    lines = [
        head,
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---" for _ in COLUMNS) + " |",
    ]
    lines += ["| " + " | ".join(_row(figure)) + " |" for figure in figures]
    return "\n".join(lines) + "\n"
