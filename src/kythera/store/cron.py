"""Cloudflare's dialect of cron: what an expression means, and when it is due. All times are UTC.

Pure. Five fields: minute, hour, day of the month, month, day of the week; each a list of values,
ranges and steps, months and weekdays also by their English names. Weekdays count 1 to 7 from Sunday.
Days of the month know `L` (the last), `L-3`, `15W` (the weekday next to the 15th, within the month) and
`LW`; days of the week `5L` (the month's last Thursday), `2#1` (its first Monday) and `L` (Saturday).
Where both are restricted, a day that either of them names counts.
Refuses (CronError), with what is wrong: a range that runs backwards, `*` inside a list, and what never
comes, such as the 30th of February.
"""

import calendar
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import product
from typing import NamedTuple

MINUTE_S = 60
CYCLE_MONTHS = 400 * 12
"""After so many months the calendar begins again: what has not come by then never does."""
YEAR_MAX = 9_998
CHARACTERS_MAX = 200
FRIDAY, SATURDAY, SUNDAY = 4, 5, 6
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


class CronError(ValueError):
    """An expression that means nothing; the message says where it is wrong."""


class _Field(NamedTuple):
    called: str
    lowest: int
    highest: int
    names: Sequence[str] = ()


_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of the month", 1, 31)
_MONTH = _Field("month", 1, 12, MONTHS)
_WEEKDAY = _Field("day of the week", 1, 7, WEEKDAYS)


class _Month(NamedTuple):
    """One month of one year: its first day's weekday (Monday is 0), and its last day."""

    first: int
    last: int

    def weekday(self, day: int) -> int:
        return (self.first + day - 1) % 7

    def on(self, weekday: int) -> list[int]:
        """Return the days that fall on a weekday, in order."""
        return [day for day in range(1, self.last + 1) if self.weekday(day) == weekday]

    def workday_near(self, day: int) -> int:
        """Return the Monday-to-Friday next to a day, without leaving the month."""
        match self.weekday(day):
            case 5:
                return day - 1 if day > 1 else day + 2
            case 6:
                return day + 1 if day < self.last else day - 2
            case _:
                return day


_Days = Callable[[_Month], Sequence[int]]
"""The days of a month that a field names."""


@dataclass(frozen=True)
class Cron:
    """An expression that was understood."""

    text: str
    times: tuple[tuple[int, int], ...]
    """Of a day: hour and minute, in order."""
    months: frozenset[int]
    days: tuple[_Days, ...] = field(compare=False)
    """Of these, each day that any names; none: every day."""

    def next_after(self, moment: float) -> int | None:
        """Return the first time that is due after a moment, in Unix seconds; None: never again."""
        begin = datetime.fromtimestamp((moment // MINUTE_S + 1) * MINUTE_S, UTC)
        for day in self._dates(begin.date(), 1):
            floor = (begin.hour, begin.minute) if day == begin.date() else (0, 0)
            place = bisect_left(self.times, floor)
            if place < len(self.times):
                return _unix(day, self.times[place])
        return None

    def latest(self, moment: float, since: float) -> int | None:
        """Return the last time that was due at a moment or before it, but after `since`."""
        until = datetime.fromtimestamp(moment // MINUTE_S * MINUTE_S, UTC)
        for day in self._dates(until.date(), -1):
            if _unix(day, (23, 59)) <= since:
                return None
            ceiling = (until.hour, until.minute) if day == until.date() else (23, 59)
            place = bisect_right(self.times, ceiling)
            if place > 0:
                found = _unix(day, self.times[place - 1])
                return found if found > since else None
        return None

    def _dates(self, begin: date, step: int) -> Iterator[date]:
        """Yield the days that match, from one on, forwards (1) or backwards (-1)."""
        index = begin.year * 12 + begin.month - 1
        for _ in range(CYCLE_MONTHS + 1):
            year, month = index // 12, index % 12 + 1
            if not 1970 <= year <= YEAR_MAX:
                return
            if month in self.months:
                found = [date(year, month, day) for day in self._days_of(year, month)]
                yield from (day for day in found[::step] if (day - begin).days * step >= 0)
            index += step

    def _days_of(self, year: int, month: int) -> list[int]:
        about = _Month(*calendar.monthrange(year, month))
        if not self.days:
            return list(range(1, about.last + 1))
        named = {day for days in self.days for day in days(about)}
        return sorted(day for day in named if 1 <= day <= about.last)


def _unix(day: date, time: tuple[int, int]) -> int:
    return calendar.timegm((day.year, day.month, day.day, *time, 0))


@lru_cache(maxsize=4_096)
def parse(text: str) -> Cron:
    """Read an expression. Raises CronError."""
    if len(text) > CHARACTERS_MAX:
        raise CronError(f"it has more than {CHARACTERS_MAX} characters")
    fields = text.upper().split()
    if len(fields) != 5:
        raise CronError(f"it has {len(fields)} fields, not 5")
    minute, hour, day, month, weekday = fields
    days = (_days_of_month(day), _days_of_week(weekday))
    cron = Cron(
        text=text,
        times=tuple(product(_values(hour, _HOUR), _values(minute, _MINUTE))),
        months=frozenset(_values(month, _MONTH)),
        days=tuple(named for named in days if named is not None),
    )
    if cron.next_after(0) is None:
        raise CronError("it never comes")
    return cron


def _wrong(of: _Field, text: str, why: str) -> CronError:
    return CronError(f"{text!r} as the {of.called}: {why}")


def _value(text: str, of: _Field) -> int:
    if text in of.names:
        return of.lowest + of.names.index(text)
    if not text.isascii() or not text.isdigit():
        raise _wrong(of, text, "neither a number nor a name")
    if not of.lowest <= int(text[:9]) <= of.highest:
        raise _wrong(of, text, f"not in {of.lowest}-{of.highest}")
    return int(text)


def _values(text: str, of: _Field) -> tuple[int, ...]:
    """Return what a list of values, ranges and steps names, in order."""
    items = text.split(",")
    if len(items) > 1 and "*" in items:
        raise _wrong(of, text, "* is everything, and cannot be in a list")
    return tuple(sorted({value for item in items for value in _item(item, of)}))


def _item(item: str, of: _Field) -> range:
    span, slash, step_text = item.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        lowest, highest = of.lowest, of.highest
    else:
        lowest = _value(first, of)
        highest = _value(last, of) if dash else of.highest if slash else lowest
    if lowest > highest:
        raise _wrong(of, item, "the range runs backwards")
    return range(lowest, highest + 1, _step(step_text, item, of) if slash else 1)


def _step(text: str, item: str, of: _Field) -> int:
    most = of.highest - of.lowest
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise _wrong(of, item, f"a step is a number from 1 to {most}")
    return int(text)


def _days_of_month(text: str) -> _Days | None:
    """Return the days that the third field names; None for all."""
    if text == "*":
        return None
    if text.startswith("L"):
        return _from_the_end(text)
    if text.endswith("W"):
        target = _value(text[:-1], _DAY)
        return lambda month: [month.workday_near(target)] if target <= month.last else []
    days = _values(text, _DAY)
    return lambda _: days


def _from_the_end(text: str) -> _Days:
    """Return the days of `L`, `LW`, `L-3` and `L-3W`."""
    workday = text.endswith("W")
    before_text = text[1:].removesuffix("W")
    before = _value(before_text[1:], _DAY) if before_text.startswith("-") else 0
    if before > 30 or (before_text and not before):
        raise _wrong(_DAY, text, "after L comes nothing, W, or - and a number from 1 to 30")

    def days(month: _Month) -> list[int]:
        day = month.last - before
        if day < 1:
            return []
        return [month.workday_near(day) if workday else day]

    return days


def _days_of_week(text: str) -> _Days | None:
    """Return the days that the fifth field names; None for all."""
    if text == "*":
        return None
    if text == "L":
        return lambda month: month.on(SATURDAY)
    if text.endswith("L"):
        last = _of_calendar(_value(text[:-1], _WEEKDAY))
        return lambda month: month.on(last)[-1:]
    if "#" in text:
        return _counted(text)
    weekdays = [_of_calendar(value) for value in _values(text, _WEEKDAY)]
    return lambda month: [day for weekday in weekdays for day in month.on(weekday)]


def _counted(text: str) -> _Days:
    """Return the days of `2#1`: the month's first Monday."""
    name, _, which = text.partition("#")
    weekday = _of_calendar(_value(name, _WEEKDAY))
    if which not in ("1", "2", "3", "4", "5"):
        raise _wrong(_WEEKDAY, text, "after # comes a number from 1 to 5")
    number = int(which)
    return lambda month: month.on(weekday)[number - 1 : number]


def _of_calendar(weekday: int) -> int:
    """Return Python's number (Monday is 0) for Cloudflare's (Sunday is 1)."""
    return (weekday + 5) % 7
