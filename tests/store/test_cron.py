"""Cloudflare's cron expressions: what they mean, beside a slow oracle that looks at each minute."""

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kythera.store.cron import CronError, parse

T0 = int(datetime(2026, 11, 23, 18, 0, tzinfo=UTC).timestamp())


def at(text: str) -> int:
    """Return Unix seconds of a moment written as `2026-11-23 18:00`."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())


def shown(moment: int | None) -> str:
    """Return a moment as people write it."""
    assert moment is not None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("text", "after", "then"),
    [
        ("* * * * *", "2026-11-23 18:00", "2026-11-23 18:01"),
        ("*/5 * * * *", "2026-11-23 18:00", "2026-11-23 18:05"),
        ("7/20 * * * *", "2026-11-23 18:00", "2026-11-23 18:07"),
        ("0 0 * * *", "2026-12-31 00:00", "2027-01-01 00:00"),
        ("30 9-17/4 * * *", "2026-11-23 13:30", "2026-11-23 17:30"),
        ("0 12 * * 1", "2026-11-23 18:00", "2026-11-29 12:00"),
        ("0 12 * * sun", "2026-11-23 18:00", "2026-11-29 12:00"),
        ("0 12 * * 2-6", "2026-11-27 12:00", "2026-11-30 12:00"),
        ("0 0 L * *", "2027-02-01 00:00", "2027-02-28 00:00"),
        ("0 0 L-3 * *", "2027-02-01 00:00", "2027-02-25 00:00"),
        ("0 0 LW JUL-DEC *", "2027-07-01 00:00", "2027-07-30 00:00"),
        ("0 0 15W * *", "2026-11-01 00:00", "2026-11-16 00:00"),
        ("0 0 1W 8 *", "2026-11-01 00:00", "2027-08-02 00:00"),
        ("0 0 1W 5 *", "2026-11-01 00:00", "2027-05-03 00:00"),
        ("0 0 * * 6L", "2026-11-01 00:00", "2026-11-27 00:00"),
        ("0 0 * * L", "2026-11-23 00:00", "2026-11-28 00:00"),
        ("0 0 * * MON#1", "2026-11-23 00:00", "2026-12-07 00:00"),
        ("0 0 * * 3#5", "2026-11-23 00:00", "2026-12-29 00:00"),
        ("0 0 13 * 6", "2026-11-23 00:00", "2026-11-27 00:00"),
        ("0 0 29 2 *", "2026-11-23 00:00", "2028-02-29 00:00"),
        ("59 23 31 12 *", "2026-12-31 23:59", "2027-12-31 23:59"),
    ],
)
def test_when_an_expression_is_due_next(text: str, after: str, then: str) -> None:
    """Goal: one row for each thing that the dialect knows."""
    assert shown(parse(text).next_after(at(after))) == then


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("60 * * * *", "'60' as the minute: not in 0-59"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * 32 * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("0 0 * * 0", "'0' as the day of the week: not in 1-7"),
        ("* * * * 8", "not in 1-7"),
        ("* * * * SAT-SUN", "backwards"),
        ("5-1 * * * *", "backwards"),
        ("*,5 * * * *", "in a list"),
        ("*/0 * * * *", "a step"),
        ("*/60 * * * *", "a step"),
        ("*/x * * * *", "a step"),
        ("1-2-3 * * * *", "neither"),
        ("1/2/3 * * * *", "a step"),
        ("x * * * *", "neither a number nor a name"),
        ("\N{SUPERSCRIPT TWO} * * * *", "neither"),
        (", * * * *", "neither"),
        ("-1 * * * *", "neither"),
        ("0 0 W * *", "neither"),
        ("0 0 L3 * *", "after L"),
        ("0 0 L-0 * *", "not in 1-31"),
        ("0 0 L-31 * *", "after L"),
        ("0 0 1,L * *", "neither"),
        ("0 0 * * 2#6", "after #"),
        ("0 0 * * 2#", "after #"),
        ("0 0 30 2 *", "never"),
        ("9" * 100 + " * * * *", "not in"),
        ("1," * 200 + "1 * * * *", "characters"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    """Goal: nothing is guessed, and the message names the field."""
    with pytest.raises(CronError, match=said.replace("(", r"\(")):
        parse(text)


def _plain(span: tuple[int, int]) -> st.SearchStrategy[str]:
    """Return lists of values, ranges and steps within a field's span."""
    low, high = span
    value = st.integers(low, high)
    pair = st.tuples(value, value).map(sorted)
    step = st.integers(1, high - low)
    item = st.one_of(
        value.map(str),
        pair.map(lambda p: f"{p[0]}-{p[1]}"),
        st.tuples(pair, step).map(lambda t: f"{t[0][0]}-{t[0][1]}/{t[1]}"),
        st.tuples(value, step).map(lambda t: f"{t[0]}/{t[1]}"),
    )
    everything = st.one_of(st.just("*"), step.map(lambda n: f"*/{n}"))
    return st.one_of(everything, st.lists(item, min_size=1, max_size=3).map(",".join))


DAYS = st.one_of(
    st.just("*"),
    _plain((1, 31)),
    st.sampled_from(["L", "LW", "L-1", "L-5", "L-2W", "L-30"]),
    st.integers(1, 31).map(lambda n: f"{n}W"),
)
WEEKDAYS = st.one_of(
    st.just("*"),
    _plain((1, 7)),
    st.sampled_from(["L", "MON-FRI", "SUN", "1L", "6L"]),
    st.tuples(st.integers(1, 7), st.integers(1, 5)).map(lambda t: f"{t[0]}#{t[1]}"),
)
EXPRESSIONS = st.tuples(_plain((0, 59)), _plain((0, 23)), DAYS, _plain((1, 12)), WEEKDAYS)


def _in_list(text: str, value: int, low: int, high: int) -> bool:
    """Tell whether a list names a value, one item after the other."""
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        begin = low if span == "*" else int(first)
        end = high if span == "*" or (step and not last) else int(last or first)
        if begin <= value <= end and (value - begin) % int(step or 1) == 0:
            return True
    return False


def _moved(day: datetime) -> datetime:
    """Return the weekday that stands for a day, found by looking around it."""
    for away in (0, -1, 1, -2, 2):
        other = day + timedelta(days=away)
        if other.month == day.month and other.weekday() < 5:
            return other
    raise AssertionError


def _day_named(text: str, day: datetime) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    if "L" not in text and "W" not in text:
        return _in_list(text, day.day, 1, 31)
    plain = text.removesuffix("W")
    target = last - int(plain[2:] or 0) if plain.startswith("L") else int(plain)
    if not 1 <= target <= last:
        return False
    meant = day.replace(day=target)
    return (_moved(meant) if text.endswith("W") else meant) == day


def _weekday_named(text: str, day: datetime) -> bool:
    text = {"L": "7", "MON-FRI": "2-6", "SUN": "1"}.get(text, text)
    number = day.isoweekday() % 7 + 1
    if text.endswith("L"):
        return number == int(text[:-1]) and (day + timedelta(days=7)).month != day.month
    if "#" in text:
        weekday, nth = text.split("#")
        return number == int(weekday) and (day.day - 1) // 7 + 1 == int(nth)
    return _in_list(text, number, 1, 7)


def _due(fields: tuple[str, str, str, str, str], moment: datetime) -> bool:
    """The oracle: look at one minute, field by field."""
    minute, hour, day, month, weekday = fields
    midnight = moment.replace(hour=0, minute=0)
    by_day, by_weekday = _day_named(day, midnight), _weekday_named(weekday, midnight)
    either = by_day if weekday == "*" else by_weekday if day == "*" else by_day or by_weekday
    return (
        either
        and _in_list(month, moment.month, 1, 12)
        and _in_list(hour, moment.hour, 0, 23)
        and _in_list(minute, moment.minute, 0, 59)
    )


@settings(max_examples=150, deadline=None)
@given(fields=EXPRESSIONS, begin=st.integers(T0, T0 + 10 * 365 * 86_400))
def test_the_next_time_is_the_oracles(fields: tuple[str, str, str, str, str], begin: int) -> None:
    """Property: no minute between is due, the one found is; looking back finds the same one."""
    try:
        cron = parse(" ".join(fields))
    except CronError:
        assume(False)
    found = cron.next_after(begin)
    assert found is not None
    assert found > begin
    assert _due(fields, datetime.fromtimestamp(found, UTC))
    for minute in range(begin // 60 + 1, min(found // 60, begin // 60 + 3_000)):
        assert not _due(fields, datetime.fromtimestamp(minute * 60, UTC))
    assert cron.latest(found, begin) == found
    assert cron.latest(found + 59, begin) == found
    assert cron.latest(found - 1, begin) is None
