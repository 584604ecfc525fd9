"""What the platform says about itself: one line an event, the same from both kinds of logger."""

import io
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.journal import Journal, configure, render

FIELDS = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text() | st.integers())


@given(FIELDS)
def test_an_event_is_one_line_whatever_its_fields(fields: dict[str, str | int]) -> None:
    """Goal: a log is read by lines. Method: any fields, both forms."""
    fields.pop("exception", None)
    head = {"ts": "2026-11-23T03:07:59.015332Z", "level": "info", "event": "e", "process": "p"}
    as_json = render({**fields, **head}, json_lines=True)
    assert json.loads(as_json) == {**fields, **head}
    assert "\n" not in as_json
    readable = render({**fields, **head}, json_lines=False)
    assert len(readable.splitlines()) == 1


def test_the_keepers_journal_writes_json_lines_where_nobody_watches() -> None:
    """Goal: machine-readable when piped. Method: a file in place of a terminal."""
    out = io.StringIO()
    journal = Journal("keeper", json_lines=True, out=out)
    journal.say("agent_started", pid=7)
    journal.warn("agent_ended", status=-9)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["process"], first["pid"]) == ("agent_started", "keeper", 7)
    assert (second["level"], second["status"]) == ("warning", -9)


def test_a_lost_stderr_does_not_stop_the_keeper() -> None:
    """Goal: nobody listening is no error. Method: a closed file."""
    out = io.StringIO()
    journal = Journal("keeper", json_lines=True, out=out)
    out.close()
    journal.say("still_here")


def test_structlog_writes_the_same_events(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: all processes speak alike. Method: configure, log with an exception, read stderr."""
    configure("agent", json_lines=True)
    try:
        journal = structlog.get_logger("cells")
        try:
            raise ValueError("broken")
        except ValueError:
            journal.exception("cell_failed", cell="c1")
        journal.debug("not_shown")
    finally:
        structlog.reset_defaults()
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["process"], event["level"]) == ("cell_failed", "agent", "error")
    assert "ValueError: broken" in event["exception"]
