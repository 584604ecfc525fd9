"""What the Cache API keeps, and what of it answers which request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.store import cache_rules as rules

NOW = 1_800_000_000.0
LATER = "Fri, 15 Jan 2027 08:01:40 GMT"
"""100 seconds after NOW."""


def head(status: int = 200, **headers: str) -> rules.Head:
    """Return a response's head; `cache_control` is `cache-control`."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return rules.Head(status, "", pairs)


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (head(cache_control="max-age=60"), 60),
        (head(cache_control="public, s-maxage=5, max-age=60"), 5),
        (head(cache_control='MAX-AGE="7"'), 7),
        (head(cache_control="max-age=60", expires=LATER), 60),
        (head(expires=LATER), 100),
        (head(expires="0"), 0),
        (head(cache_control="max-age=0"), 0),
        (head(cache_control="max-age=soon"), 0),
        (head(cache_control="max-age=\xb2"), 0),
        (head(cache_control="no-store, max-age=60"), 0),
        (head(cache_control="no-cache"), 0),
        (head(cache_control="private, max-age=60"), 0),
        (head(cache_control="max-age=60", set_cookie="a=b"), 0),
        (head(cache_control="private=Set-Cookie, max-age=60", set_cookie="a=b"), 60),
        (head(cache_control="max-age=60", vary="*"), 0),
        (head(), 7_200),
        (head(301), 7_200),
        (head(302), 1_200),
        (head(404), 180),
        (head(403), 60),
        (head(500), 0),
        (head(500, cache_control="max-age=60"), 60),
        (head(206, cache_control="max-age=60"), 0),
        (head(304, cache_control="max-age=60"), 0),
    ],
)
def test_a_response_is_kept_as_long_as_its_headers_say(
    response: rules.Head, seconds: float
) -> None:
    """Goal: Cloudflare's rules; what says nothing is kept as its edge would."""
    assert rules.kept_for_s(response, NOW) == seconds


def test_what_is_private_to_one_visitor_is_not_kept_with_the_rest() -> None:
    """Goal: `private=Set-Cookie` keeps the response without its cookie."""
    kept = rules.to_keep(head(cache_control="private=Set-Cookie", set_cookie="a=b", etag="x"))
    assert [name for name, _ in kept] == ["cache-control", "etag"]


@pytest.mark.parametrize(
    ("asked", "unchanged"),
    [
        ({"if-none-match": '"a"'}, True),
        ({"if-none-match": 'W/"a", "b"'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"b"', "if-modified-since": LATER}, False),
        ({"if-modified-since": LATER}, True),
        ({"if-modified-since": "Fri, 15 Jan 2027 08:01:39 GMT"}, False),
        ({"if-modified-since": "never"}, False),
        ({}, False),
    ],
)
def test_who_has_it_already_is_told_so(asked: dict[str, str], unchanged: bool) -> None:
    """Goal: ETag first, then Last-Modified."""
    assert rules.is_unchanged(head(etag='"a"', last_modified=LATER), asked) is unchanged


@pytest.mark.parametrize(
    ("asked", "start", "size"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-", 2, 8),
        ("bytes=-3", 7, 3),
        ("bytes=-30", 0, 10),
        ("bytes=8-100", 8, 2),
    ],
)
def test_one_range_is_answered_with_that_part(asked: str, start: int, size: int) -> None:
    """Goal: first, last and open ranges."""
    assert rules.part_of(head(), {"range": asked}, 10) == rules.Part(start, size)


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=5-2", "x"])
def test_what_is_no_single_range_is_answered_whole(asked: str) -> None:
    """Goal: as RFC 9110 allows, never an error."""
    assert rules.part_of(head(), {"range": asked}, 10) is None


def test_a_range_beyond_the_end_is_refused() -> None:
    """Goal: 416, not an empty part."""
    for asked in ("bytes=10-", "bytes=-0"):
        with pytest.raises(ValueError, match="range"):
            rules.part_of(head(), {"range": asked}, 10)


def test_what_is_encoded_or_changed_is_not_cut() -> None:
    """Goal: half of a gzip stream decodes to nothing; If-Range with another ETag wants all."""
    asked = {"range": "bytes=0-1"}
    assert rules.part_of(head(content_encoding="gzip"), asked, 10) is None
    changed = {**asked, "if-range": '"old"'}
    assert rules.part_of(head(etag='"new"'), changed, 10) is None
    same = {**asked, "if-range": '"new"'}
    assert rules.part_of(head(etag='"new"'), same, 10) == rules.Part(0, 2)


def test_variants_are_told_apart_by_what_the_response_was_chosen_by() -> None:
    """Goal: `Vary: Accept-Language` makes one object for each language, whatever the blanks."""
    names = rules.vary_names(head(vary="Accept-Language, accept"))
    german = rules.variant(names, {"accept-language": "de, en"})
    assert german == rules.variant(names, {"accept-language": "de,en", "other": "x"})
    assert german != rules.variant(names, {"accept-language": "en"})


@given(st.binary(max_size=200))
def test_whatever_is_put_is_read_or_refused(raw: bytes) -> None:
    """Goal: no bytes that a worker can send make anything but NotAResponse."""
    for text in (raw, b"HTTP/1.1 200 OK\r\n" + raw):
        try:
            found = rules.read_head(text)
        except rules.NotAResponse:
            continue
        rules.kept_for_s(found, NOW)
        rules.tags_of(found)


@given(st.text(max_size=60), st.integers(0, 30))
def test_a_part_always_lies_within_the_body(asked: str, size: int) -> None:
    """Goal: whatever is asked for, no byte beyond the end is promised."""
    try:
        part = rules.part_of(head(), {"range": f"bytes={asked}"}, size)
    except ValueError:
        return
    if part is not None:
        assert part.size > 0
        assert part.start + part.size <= size
