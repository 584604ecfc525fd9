"""Route patterns mean what Cloudflare says they mean."""

import re
from typing import cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kythera.route.patterns import SCHEMES, PatternError, Scheme, parse_pattern
from tests.route.worlds import patterns


@pytest.mark.parametrize(
    ("pattern", "url", "matches"),
    [
        ("example.com/*", "http://example.com/", True),
        ("example.com/*", "https://example.com/a?b", True),
        ("example.com/*", "https://www.example.com/", False),
        ("example.com", "https://example.com/", True),
        ("example.com", "https://example.com/a", False),
        ("example.com*", "https://example.com/a", True),
        ("EXAMPLE.com/Images/*", "https://example.com/Images/a", True),
        ("example.com/images/*", "https://example.com/Images/a", False),
        ("example.com/images/*", "https://example.com/images", False),
        ("example.com/images*", "https://example.com/images", True),
        ("example.com/a", "https://example.com/a?b", False),
        ("*.example.com/*", "https://a.b.example.com/x", True),
        ("*.example.com/*", "https://example.com/x", False),
        ("*example.com/*", "https://example.com/x", True),
        ("*-api.example.com/*", "https://my-api.example.com/x", True),
        ("https://example.com/*", "http://example.com/", False),
        ("HTTP://example.com/*", "http://example.com/", True),
        ("*/*", "http://anything/at/all", True),
    ],
)
def test_a_pattern_matches_as_cloudflare_documents(pattern: str, url: str, matches: bool) -> None:
    """Hosts without case, paths with it, queries as part of the path."""
    scheme, host, path = re.fullmatch(r"(https?)://([^/]*)(.*)", url).groups()  # type: ignore[union-attr]
    assert parse_pattern(pattern).matches(cast("Scheme", scheme), host, path) is matches


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "empty"),
        ("a.*.com/*", "inside its host"),
        ("**.example.com/*", "inside its host"),
        ("example.com/*.jpg", "inside its path"),
        ("example.com/**", "inside its path"),
        ("example.com/?a=*", "query"),
        ("example.com:8080/*", "port"),
        ("example.com/a b", "blanks"),
        ("example.com/ä", "percent-encoded"),
        ("exämple.com/*", "hostname"),
        ("/path", "hostname"),
        ("ftp://example.com/*", "port"),
        ("example.com/" + "a" * 2000, "longer"),
    ],
)
def test_a_wrong_pattern_is_refused_with_its_reason(pattern: str, why: str) -> None:
    """The message names what is wrong and shows a right one."""
    with pytest.raises(PatternError, match=why) as caught:
        parse_pattern(pattern)
    assert "example.com/shop/*" in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_pattern_or_a_pattern_error(text: str) -> None:
    """What is accepted makes keys and expressions of one word, as a map file needs."""
    try:
        pattern = parse_pattern(text)
    except PatternError:
        return
    words = [pattern.expression(), *([] if pattern.host_open else pattern.lookups())]
    assert all(word.isascii() and len(word.split()) == 1 for word in words)
    assert all(not word.startswith("#") for word in words)


@given(patterns, st.data())
def test_the_expression_agrees_with_the_meaning(text: str, data: st.DataObject) -> None:
    """HAProxy's regular expression and `matches` tell the same of every URL."""
    pattern = parse_pattern(text)
    scheme = data.draw(st.sampled_from(SCHEMES))
    host = data.draw(st.sampled_from(["x", "a.b", ""])) + pattern.host
    path = data.draw(st.sampled_from([pattern.path, pattern.path + "x", "/z", "/"]))
    assume("/" not in host)
    found = re.search(pattern.expression(), f"{scheme}://{host}{path}") is not None
    assert found is pattern.matches(scheme, host, path)


def test_ranks_put_the_most_specific_first() -> None:
    """Whole hosts, long hosts, whole paths, long paths, one scheme."""
    ordered = [
        "https://a.example.com/x/y",
        "a.example.com/x/y",
        "a.example.com/x/*",
        "http://a.example.com/*",
        "a.example.com/*",
        "*.a.example.com/*",
        "*.example.com/long/*",
        "*.example.com/*",
        "*example.com/*",
        "*/*",
    ]
    ranked = sorted(ordered[1::2] + ordered[::2], key=lambda text: parse_pattern(text).rank())
    assert ranked == ordered
