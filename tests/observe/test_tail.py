"""What a tail shows: filters, sampling, floods and size, without any socket."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import Refusal
from kythera.observe.tail import (
    Flood,
    frame,
    notice,
    read_filters,
    same_address,
    stored_filters,
    wants,
)


def event(**fields: Any) -> dict[str, Any]:
    """Return a trace item of a request."""
    request = {
        "url": "http://hello.localhost/a",
        "method": "GET",
        "headers": {"cf-connecting-ip": "192.0.2.7", "X-Trace": "abc-1"},
    }
    return {
        "outcome": "ok",
        "scriptName": "hello",
        "scriptVersion": {"id": "v1"},
        "logs": [{"level": "log", "message": ["needle", {"a": 1}], "timestamp": 1}],
        "exceptions": [{"name": "Error", "message": "boom", "timestamp": 1}],
        "eventTimestamp": 1,
        "event": {"request": request},
        **fields,
    }


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        ({"outcome": ["ok", "exception"]}, True),
        ({"outcome": ["exception"]}, False),
        ({"method": ["get"]}, True),
        ({"method": ["POST"]}, False),
        ({"header": {"key": "x-trace"}}, True),
        ({"header": {"key": "x-trace", "query": "abc"}}, True),
        ({"header": {"key": "x-trace", "query": "z"}}, False),
        ({"header": {"key": "absent"}}, False),
        ({"client_ip": ["192.0.2.7"]}, True),
        ({"client_ip": ["self", "192.0.2.8"]}, False),
        ({"query": "needle"}, True),
        ({"query": '"a":1'}, True),
        ({"query": "Error: boom"}, True),
        ({"query": "haystack"}, False),
        ({"scriptVersion": "v1"}, True),
        ({"scriptVersion": ["v2"]}, False),
        ({"sampling_rate": 0.6}, True),
        ({"sampling_rate": 0.5}, False),
    ],
)
def test_each_filter_passes_what_it_says(wanted: dict[str, Any], passes: bool) -> None:
    """One filter at a time, chance standing at one half."""
    filters = stored_filters(read_filters([wanted], "198.51.100.1"))
    assert wants(filters, event(), 0.5) is passes


def test_all_filters_must_pass_and_none_means_everything() -> None:
    """As wrangler sends one for each option."""
    filters = stored_filters(read_filters([{"outcome": ["ok"]}, {"method": ["POST"]}], ""))
    assert not wants(filters, event(), 0)
    assert wants((), event(), 0)


def test_self_is_whoever_made_the_tail() -> None:
    """And all addresses of this host are one."""
    filters = stored_filters(read_filters([{"client_ip": ["self"]}], "192.0.2.7"))
    assert wants(filters, event(), 0)
    assert same_address("::1", ["127.0.0.1"])
    assert same_address("::ffff:127.0.0.1", ["127.8.8.8"])
    assert not same_address("192.0.2.7", ["127.0.0.1"])


@pytest.mark.parametrize(
    "filters",
    [
        {},
        [1],
        [{}] * 100,
        [{"sampling_rate": 2}],
        [{"sampling_rate": "x"}],
        [{"outcome": "ok"}],
        [{"query": "x" * 5000}],
        [{"header": {}}],
        [{"client_ip": ["x"] * 101}],
    ],
)
def test_filters_of_another_shape_are_refused(filters: Any) -> None:
    """In words, with 10021."""
    with pytest.raises(Refusal, match="tail cannot be made"):
        read_filters(filters, "")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    strange=st.dictionaries(
        st.sampled_from(["event", "logs", "exceptions", "outcome", "scriptVersion"]), json_values
    )
)
def test_events_of_any_shape_break_nothing(strange: dict[str, Any]) -> None:
    """Events come from workers' own code."""
    wanted = [
        {"outcome": ["ok"]},
        {"method": ["GET"]},
        {"header": {"key": "a"}},
        {"client_ip": ["self"]},
        {"query": "x"},
        {"scriptVersion": "v"},
    ]
    for one in wanted:
        filters = stored_filters(read_filters([one], "127.0.0.1"))
        assert wants(filters, {**event(), **strange}, 0.5) in (True, False)
    assert len(frame({**event(), **strange}, 400)) <= 600


def test_a_flood_is_sampled_and_told_when_it_begins_and_ends() -> None:
    """Ten a second pass; the eleventh begins the flood, a calm second ends it."""
    flood = Flood(10)
    first = [flood.admit(100.0 + n / 100) for n in range(30)]
    assert sum(admitted for admitted, _ in first) == 10
    assert [told for _, told in first if told] == ["overload"]
    second = [flood.admit(101.0 + n / 100) for n in range(11)]
    assert sum(admitted for admitted, _ in second) == 10
    assert not any(told for _, told in second)
    assert flood.admit(102.0) == (True, None)
    assert flood.admit(103.0) == (True, "overload-stop")
    assert flood.admit(103.1) == (True, None)


def test_a_notice_is_an_event_that_wrangler_can_print() -> None:
    """It looks for type and message in the event."""
    told = notice("overload", "hello", 1.5)
    assert told["event"]["type"] == "overload"
    assert "sampling mode" in told["event"]["message"]
    assert told["eventTimestamp"] == 1500
    assert "exited" in notice("overload-stop", "hello", 1)["event"]["message"]


def test_an_event_that_is_too_large_is_cut_and_marked() -> None:
    """Logs that fit stay; the request stays as long as it can."""
    small = event()
    assert msgspec.json.decode(frame(small, 10_000)) == small
    lines = [{"level": "log", "message": ["x" * 1000], "timestamp": n} for n in range(50)]
    cut = msgspec.json.decode(frame(event(logs=lines), 10_000))
    assert cut["truncated"] is True
    assert 5 <= len(cut["logs"]) < 50
    assert cut["event"] == small["event"]
    huge = event(event={"request": {"url": "http://h/" + "u" * 99_999, "method": "GET"}})
    bones = frame(huge, 10_000)
    assert len(bones) < 10_000
    assert msgspec.json.decode(bones)["event"]["request"]["method"] == "GET"
