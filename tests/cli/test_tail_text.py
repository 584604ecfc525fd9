"""A trace event as lines for a person."""

from typing import Any

import pytest

from kythera.cli.tail_text import filters, pretty

EVENT: dict[str, Any] = {
    "outcome": "exception",
    "eventTimestamp": 1795403749823,
    "event": {
        "request": {"method": "GET", "url": "http://hello.localhost/x"},
        "response": {"status": 500},
    },
    "logs": [{"level": "warn", "message": ["seen", {"a": 1}], "timestamp": 1}],
    "exceptions": [{"name": "Error", "message": "boom", "stack": "Error: boom\n  at f (i.ts:3)"}],
}


def test_a_request_is_told_with_its_end_its_words_and_its_exception() -> None:
    """What an owner needs to find a fault, and no more."""
    assert pretty(EVENT) == (
        "GET http://hello.localhost/x - Exception 500 @ 2026-11-23 03:15:49 UTC\n"
        '  (warn) seen {"a": 1}\n'
        "  ✘ Error: boom\n"
        "      at f (i.ts:3)"
    )


def test_sampling_is_told_as_what_it_is() -> None:
    """A flooded tail says that it leaves events out."""
    event = {"outcome": "ok", "event": {"type": "overload", "message": "1 in 10 shown"}}
    assert pretty(event) == "(overload) 1 in 10 shown"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({"cron": "* * * * *", "scheduledTime": 1}, "cron * * * * *"),
        ({"queue": "q", "batchSize": 3}, "queue q (3 messages)"),
        ({"rpcMethod": "add"}, "rpc add"),
        ({"getWebSocketEvent": {"webSocketEventType": "close"}}, "websocket close"),
        ({"scheduledTime": 1}, "alarm"),
        ({}, "event"),
    ],
)
def test_other_events_have_a_name_too(kind: dict[str, Any], told: str) -> None:
    """Nothing is shown as a request that is none."""
    assert pretty({"outcome": "ok", "event": kind}).startswith(f"{told} - Ok @ ?")


def test_what_happens_in_an_object_names_its_class() -> None:
    """The same alarm, in which class."""
    event = {"outcome": "ok", "event": {"scheduledTime": 1}, "eventTimestamp": None}
    told = pretty({**event, "executionModel": "durableObject", "entrypoint": "Room"})
    assert told == "alarm in Room - Ok @ ?"


def test_filters_are_those_of_the_protocol() -> None:
    """`error` stands for four outcomes."""
    found = filters(statuses=("error",), methods=("get",), search="x", sampling_rate=0.5)
    assert found == [
        {"sampling_rate": 0.5},
        {"outcome": ["exception", "exceededCpu", "exceededMemory", "unknown"]},
        {"method": ["GET"]},
        {"query": "x"},
    ]
    assert filters() == []
