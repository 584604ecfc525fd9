"""What cells and engines print becomes events of the log: one line, one event.

A cell's standard output is its version's console. Lines that our prelude marked are uncaught
exceptions with their ray id. A flood costs the flooder its own lines: above
`LINES_PER_S_MAX` they are counted and dropped unread, a pipe's content at a time with a pause
after each, so that a flood costs us some percent of a core, and the pipe's fullness slows the process.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog

from kythera.ground.clock import Clock
from kythera.ground.readiness import Readiness
from kythera.node.keeper_client import HeldProcess
from kythera.run.cell import CellName
from kythera.run.object_cells import key_of
from kythera.run.prelude import EXCEPTION_MARKER, SUBREQUESTS_MARKER

CHUNK_BYTES = 65_536
LINE_BYTES_MAX = 16_384
LINES_PER_S_MAX = 500
FLOOD_PAUSE_S = 0.01
"""After each read of a process that has said too much this second: some 6 MB a second of it."""
ENGINE_CHATTER = (
    "[INF]",
    "[DBG]",
    "[NOTICE]",
    "CLI : Server",
    "stopped (cumulated conns",
    "exited with code 0 (Exit)",
    "Exiting Master process...",
    "All workers exited. Exiting... (0)",
    "Plaintext passwords detected",
    "workerd/jsg/util.c++",
    "workerd/api/sockets.c++",
    "stack: ",
)
"""Marks of engine lines that tell an operator nothing (HAProxy warns of each worker that a reload or
an end lets go; the password file is 0600; what the egress cell could not reach is counted under its
reason)."""


STORES = "store-"
"""What processes of stores are called by; those that are programs of ours write events."""
OWN_FIELDS = ("ts", "level", "process", "event")
LEVELS = ("debug", "info", "warning", "error", "critical")

CELL_CHATTER = ("Unable to find and open the program executable",)
"""Beginnings of what workerd says of a sandbox that has no /proc."""


OUT_OF_MEMORY = (
    b"JavaScript heap out of memory",
    b"V8 process OOM",
    b"memory allocation of",
    b"system_allocator.h",
    b"Fatal process out of memory",
)
"""What V8, Rust and tcmalloc say before they abort. A worker may print it too: it then gives its
own abort another name, in its own log."""


@dataclass
class Console:
    """One process's output: what is unfinished, and how much was said this second."""

    name: str
    descriptor: int
    rest: bytes = b""
    second: int = 0
    lines: int = 0
    dropped: int = 0

    def take(self, data: bytes) -> list[bytes]:
        """Return the whole lines that `data` completes; an over-long one is cut."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LINE_BYTES_MAX:
            lines, self.rest = [*lines, self.rest], b""
        return [line[:LINE_BYTES_MAX] for line in lines if line.strip()]

    def allow(self, now: float) -> bool:
        """Tell whether another line may be logged in this second."""
        if int(now) != self.second:
            self.second, self.lines = int(now), 0
        self.lines += 1
        self.dropped += self.lines > LINES_PER_S_MAX
        return self.lines <= LINES_PER_S_MAX

    def floods(self, now: float) -> bool:
        """Tell whether no line of this second may be logged any more."""
        return int(now) == self.second and self.lines >= LINES_PER_S_MAX

    def skip(self, data: bytes) -> int:
        """Drop the lines that `data` completes; return how many."""
        count = data.count(b"\n")
        self.rest = (data if count else self.rest + data).rpartition(b"\n")[2][:LINE_BYTES_MAX]
        self.dropped += count
        return count


class Holds(Protocol):
    """What is needed of the keeper's client."""

    processes: dict[str, HeldProcess]


class Consoles:
    """Reads every process's output pipe and logs its lines."""

    def __init__(self, keeper: Holds, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._readiness = Readiness()
        self.dropped: Callable[[CellName, int], None] = lambda _cell, _lines: None
        """Told of lines of a cell that are not logged because there were too many."""
        self.exceeded: Callable[[CellName, str], None] = lambda _cell, _reason: None
        """Told of a limit that a worker's own isolate says it has met."""
        self.engine_said: Callable[[str, str], None] = lambda _name, _line: None
        """Told of each line of an engine, within the same limit, by the engine's name."""
        self._consoles: dict[str, Console] = {}
        self._out_of_memory: set[str] = set()
        self._journal = structlog.get_logger("console")

    def listen_to(self, process: str) -> None:
        """Start reading a process that the keeper holds."""
        held = self._keeper.processes.get(process)
        if held is not None and held.output is not None and process not in self._consoles:
            self._consoles[process] = Console(process, held.output)
            self._readiness.arm(process, held.output)

    def close(self) -> None:
        """Stop watching; the pipes stay the keeper's."""
        self._readiness.close()

    async def run(self) -> None:
        """Read and log, for ever."""
        async with anyio.create_task_group() as tasks:
            async for name in self._readiness.names():
                console = self._consoles.get(name)
                if console is None:
                    continue
                self._read(console)
                if console.floods(self._clock.now()):
                    tasks.start_soon(self._arm_later, console)
                else:
                    self._arm(console)

    async def _arm_later(self, console: Console) -> None:
        await anyio.sleep(FLOOD_PAUSE_S)
        self._arm(console)

    def _arm(self, console: Console) -> None:
        if self._consoles.get(console.name) is console:
            self._readiness.arm(console.name, console.descriptor)

    def ran_out_of_memory(self, process: str) -> bool:
        """Read what a process that has ended still said; tell whether it wanted memory last."""
        console = self._consoles.get(process)
        while console is not None and self._read(console):
            pass
        wanted = process in self._out_of_memory
        self._out_of_memory.discard(process)
        return wanted

    def _read(self, console: Console) -> bool:
        """Read once; tell whether there was something."""
        try:
            data = os.read(console.descriptor, CHUNK_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._readiness.disarm(console.descriptor)
            del self._consoles[console.name]
            return False
        if data and any(mark in data for mark in OUT_OF_MEMORY):
            self._out_of_memory.add(console.name)
        self._take(console, data or b"")
        return data is not None

    def _take(self, console: Console, data: bytes) -> None:
        """Log what may be logged; what is too much is counted and not even looked at."""
        before = console.dropped
        if console.floods(self._clock.now()):
            console.skip(data)
        else:
            lines = console.take(data)
            for number, line in enumerate(lines):
                if not console.allow(self._clock.now()):
                    console.dropped += len(lines) - number - 1
                    break
                self._log(console, line.decode(errors="replace"))
        cell = self._cell(console)
        if cell is not None and console.dropped > before:
            self.dropped(cell, console.dropped - before)

    def _cell(self, console: Console) -> CellName | None:
        return CellName.parse(console.name) or self._object_cell(console.name)

    def _tell_own(self, name: str, line: str) -> bool:
        """Pass on an event of a program of ours (a store's); tell whether it was one."""
        found = own_event(line) if name.startswith(STORES) else None
        if found is not None:
            level, event, fields = found
            getattr(self._journal, level)(event, store=name.removeprefix(STORES), **fields)
        return found is not None

    def _object_cell(self, name: str) -> CellName | None:
        """Return whose object cell prints, and of which version it is."""
        key, held = key_of(name), self._keeper.processes.get(name)
        version = "" if held is None else str(held.tags.get("version", ""))
        return None if key is None else CellName(*key, version, 0, observed=False)

    def _log(self, console: Console, line: str) -> None:
        if line.startswith(CELL_CHATTER):
            return
        cell = self._cell(console)
        if cell is None:
            if self._tell_own(console.name, line):
                return
            self.engine_said(console.name, line)
            if not any(mark in line for mark in ENGINE_CHATTER):
                self._journal.warning("engine", engine=console.name, line=line)
            return
        about = {"worker": cell.worker, "version": cell.version_id}
        if line.startswith(EXCEPTION_MARKER):
            self._journal.error("exception", **about, **_fields(line[len(EXCEPTION_MARKER) :]))
        elif line.startswith(SUBREQUESTS_MARKER):
            most = line[len(SUBREQUESTS_MARKER) :]
            self._journal.warning("subrequests_exceeded", **about, subrequests_max=most)
            self.exceeded(cell, "exceededSubrequests")
        else:
            self._journal.info("console", **about, line=line)


def own_event(line: str) -> tuple[str, str, dict[str, object]] | None:
    """Read a line of a program of ours (ground.journal): level, event, fields; None: it is none."""
    try:
        found = json.loads(line) if line.startswith('{"ts"') else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("level") not in LEVELS:
        return None
    fields = {key: found[key] for key in found if key not in OWN_FIELDS}
    return str(found["level"]), str(found.get("event", "")), fields


def _fields(text: str) -> dict[str, str]:
    """Read the prelude's JSON; a worker may forge such a line, so anything else is just text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {"line": text}
    if not isinstance(found, dict):
        return {"line": text}
    return {key: str(found[key]) for key in ("ray", "name", "message", "stack") if key in found}
