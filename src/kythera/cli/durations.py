"""Lengths of time as a person types them: `90s`, `15m`, `12h`, `30d`."""

import re
from typing import Any

import click

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
DURATION = re.compile(r"([0-9]{1,9})([smhd])")


class Duration(click.ParamType[float]):
    """A length of time, in seconds; where `never` is allowed, it is infinity."""

    name = "duration"

    def __init__(self, *, never: bool = False) -> None:
        self._never = never

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds; `never` is infinity."""
        if isinstance(value, int | float):
            return float(value)
        if self._never and value == "never":
            return float("inf")
        found = DURATION.fullmatch(str(value))
        if found is None:
            words = "a number with s, m, h or d (30d)" + (" or never" if self._never else "")
            self.fail(f"{str(value)[:40]!r} is no length of time: write {words}.", param, ctx)
        return float(found[1]) * UNITS[found[2]]
