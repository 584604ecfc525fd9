"""R2's `onlyIf` and ranges, decided from plain values."""

import pytest

from kythera.model.errors import Refusal
from kythera.store.r2_conditions import holds, range_given, range_header
from kythera.store.r2_objects import Found, Kept
from kythera.store.r2_protocol import Conditional, Etag, Range

FOUND = Found("k", 5, "abc", 1_500, Kept())
ANY = Etag(type="wildcard")


@pytest.mark.parametrize(
    ("condition", "there", "absent"),
    [
        (None, True, True),
        (Conditional(etag_matches=[Etag(value="abc")]), True, False),
        (Conditional(etag_matches=[Etag(value="x"), Etag(value="abc")]), True, False),
        (Conditional(etag_matches=[Etag(type="weak", value="abc")]), False, False),
        (Conditional(etag_matches=[ANY]), True, False),
        (Conditional(etag_does_not_match=[Etag(value="abc")]), False, True),
        (Conditional(etag_does_not_match=[Etag(type="weak", value="abc")]), False, True),
        (Conditional(etag_does_not_match=[ANY]), False, True),
        (Conditional(etag_does_not_match=[Etag(value="x")]), True, True),
        (Conditional(uploaded_before=1_501), True, True),
        (Conditional(uploaded_before=1_500), False, True),
        (Conditional(uploaded_after=1_499), True, False),
        (Conditional(uploaded_after=1_500), False, False),
        (Conditional(uploaded_after=1_200, seconds_granularity=True), False, False),
        (Conditional(uploaded_before=2_000, seconds_granularity=True), True, True),
        (Conditional(etag_matches=[Etag(value="abc")], uploaded_before=1), True, False),
        (Conditional(etag_does_not_match=[Etag(value="x")], uploaded_after=9_999), True, False),
    ],
)
def test_a_condition_holds_as_http_says(
    condition: Conditional | None, *, there: bool, absent: bool
) -> None:
    """Goal: RFC 9110's order: an etag that decides makes the date beside it count no more."""
    assert holds(condition, FOUND) == there
    assert holds(condition, None) == absent


@pytest.mark.parametrize(
    ("wanted", "header"),
    [
        (None, ""),
        (Range(offset=0), ""),
        (Range(offset=3), "bytes=3-"),
        (Range(offset=3, length=2), "bytes=3-4"),
        (Range(length=2), "bytes=0-1"),
        (Range(suffix=4), "bytes=-4"),
    ],
)
def test_a_range_becomes_https(wanted: Range | None, header: str) -> None:
    """Goal: each way to name a part."""
    assert range_header(wanted, "") == header


@pytest.mark.parametrize("wanted", [Range(suffix=0), Range(offset=1, length=0)])
def test_a_range_of_nothing_is_refused(wanted: Range) -> None:
    """Goal: 10039, as Cloudflare."""
    with pytest.raises(Refusal) as refused:
        range_header(wanted, "")
    assert refused.value.code == 10039


def test_a_header_that_names_no_single_part_asks_for_the_whole() -> None:
    """Goal: HTTP lets a server ignore what it does not know."""
    assert range_header(None, "bytes=1-2") == "bytes=1-2"
    for ignored in ("bytes=1-2,4-5", "lines=1-2", "bytes=-", "bytes=a-b"):
        assert range_header(None, ignored) == ""


def test_the_part_that_an_answer_holds_is_told() -> None:
    """Goal: `range` of the object that a worker gets."""
    assert range_given("bytes 1-2/5") == {"offset": "1", "length": "2"}
    assert range_given("") is None
