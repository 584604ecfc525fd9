"""What the platform says about itself: events with fields, on stderr.

`{"ts": …, "level": "info", "event": "cell_started", "process": "agent", …}` as JSON lines, or the
same in one readable line on a terminal. One line for each decision, not for each step. stdout
belongs to what the user asked for.

The keeper forks, so it stays small: it uses `Journal` alone, which imports nothing. All others
call `configure` and then `structlog.get_logger()`; both end in `render`.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from kythera.ground.clock import iso

LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def render(fields: Mapping[str, Any], *, json_lines: bool, colour: bool = False) -> str:
    """Return one event as one line. `fields` begin with ts, level, process and event."""
    if json_lines:
        return json.dumps(fields, default=str, ensure_ascii=False)
    head = {"ts", "level", "process", "event", "exception"}
    rest = " ".join(f"{key}={_short(value)}" for key, value in fields.items() if key not in head)
    level = str(fields.get("level", "info"))
    mark = f"\033[{_COLOURS.get(level, '0')}m{level:<7}\033[0m" if colour else f"{level:<7}"
    clock = str(fields.get("ts", ""))[11:23]
    line = f"{clock} {mark} {fields.get('process', '')}: {fields.get('event', '')} {rest}".rstrip()
    if "exception" in fields:
        line += "\n" + str(fields["exception"])
    return line


def _short(value: Any) -> str:
    """Write a value so that it can neither break its line nor steer a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if not text.isprintable():
        return json.dumps(value, default=str)
    quoted = isinstance(value, str) and (not text or any(c in text for c in ' "='))
    return json.dumps(text, ensure_ascii=False) if quoted else text


class Journal:
    """The smallest logger: `journal.say("started", pid=7)`. A lost stderr is no error."""

    def __init__(self, process: str, *, json_lines: bool, out: TextIO | None = None) -> None:
        self._process = process
        self._json_lines = json_lines
        self._out = out or sys.stderr

    def say(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Write one event."""
        head = {"ts": iso(time.time()), "level": level, "process": self._process, "event": event}
        colour = not self._json_lines and self._out.isatty()
        line = render({**head, **fields}, json_lines=self._json_lines, colour=colour)
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            return  # whoever read our stderr has gone; there is nobody left to tell

    def warn(self, event: str, **fields: Any) -> None:
        """Write one event that an operator should look at."""
        self.say(event, level="warning", **fields)


def configure(process: str, *, json_lines: bool | None = None) -> None:
    """Make structlog write this process's events to stderr; None means JSON unless a terminal."""
    import structlog

    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    colour = not as_json and sys.stderr.isatty()

    def finish(_logger: Any, level: str, fields: Any) -> str:
        event = fields.pop("event", "")
        fields.pop("level", None)
        head = {"ts": iso(time.time()), "level": level, "process": process, "event": event}
        return render({**head, **fields}, json_lines=as_json, colour=colour)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
