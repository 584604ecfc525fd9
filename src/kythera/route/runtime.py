"""HAProxy's two sockets: the runtime socket of its newest process, the master's for the others.

Promises: one command, one answer, and each exchange has a deadline (the master can stay silent
for ever when the process it forwards to ends). Refuses by `FrontSilent`: HAProxy is gone or says
nothing; what an answer means is the caller's to judge.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import SocketStream

from kythera.model.errors import KytheraError

ANSWER_S = 5.0
PROMPT = b"\n> "
CHUNK_BYTES = 256 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
_PROCESS = re.compile(r"^(\d+)\s+(master|worker)\s+(\d+)(?:\s+\[failed: (\d+)\])?", re.MULTILINE)


class FrontSilent(KytheraError):
    """HAProxy does not answer on its socket."""


@dataclass(frozen=True)
class Processes:
    """HAProxy's processes: the newest takes new connections, old ones drain."""

    newest: int | None
    old: tuple[int, ...]
    reloads_failed: int


class Conversation:
    """Several commands on one connection to the runtime socket."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream

    async def ask(self, command: str) -> str:
        """Send one command; return its answer without the empty lines around it."""
        await self._stream.send(_wire(command))
        return await self.answer()

    async def answer(self) -> str:
        """Read up to the next prompt."""
        kept = bytearray()
        while not kept.endswith(PROMPT):
            kept += await self._stream.receive(CHUNK_BYTES)
            if len(kept) > ANSWER_BYTES_MAX:
                raise FrontSilent("HAProxy's answer does not end.")
        # Each row of a payload is answered by a prompt of its own, a plus.
        return kept[: -len(PROMPT)].decode(errors="replace").lstrip("+ ").strip("\n")


def _wire(command: str) -> bytes:
    """Return a command as sent; rows (after `<<`) end with an empty line."""
    end = "\n\n" if "\n" in command else "\n"
    return (command.rstrip("\n") + end).encode()


@contextmanager
def _silence(path: Path) -> Iterator[None]:
    """Turn all ways of not answering into one error."""
    try:
        yield
    except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise FrontSilent(
            f"HAProxy does not answer on {path.name} ({type(error).__name__}: {error}).",
            remedy="It may be starting; if this goes on, look for its messages in the log.",
        ) from error


@asynccontextmanager
async def conversation(path: Path, deadline_s: float = ANSWER_S) -> AsyncIterator[Conversation]:
    """Open the runtime socket for several commands, all within one deadline."""
    with _silence(path), anyio.fail_after(deadline_s):
        async with await anyio.connect_unix(path) as stream:
            talk = Conversation(stream)
            await stream.send(b"prompt\n")
            await talk.answer()
            yield talk


async def ask_once(path: Path, command: str, deadline_s: float = ANSWER_S) -> str:
    """Ask one thing on a connection of its own (either socket); return the whole answer."""
    kept = bytearray()
    with _silence(path), anyio.fail_after(deadline_s):
        async with await anyio.connect_unix(path) as stream:
            # The master closes after an answer only when told to.
            await stream.send(_wire(command) + b"quit\n")
            try:
                while len(kept) <= ANSWER_BYTES_MAX:
                    kept += await stream.receive(CHUNK_BYTES)
            except anyio.EndOfStream:
                return kept.decode(errors="replace").strip("\n")
    raise FrontSilent("HAProxy's answer does not end.")


def parse_processes(text: str) -> Processes:
    """Read `show proc`: the master, then workers, then workers that drain."""
    current, _, old = text.partition("# old workers")
    newest: int | None = None
    failed = 0
    for match in _PROCESS.finditer(current):
        if match[2] == "master":
            failed = int(match[4] or 0)
        else:
            newest = int(match[1])
    return Processes(newest, tuple(int(match[1]) for match in _PROCESS.finditer(old)), failed)


async def processes(master_socket: Path) -> Processes:
    """Ask the master which processes there are."""
    return parse_processes(await ask_once(master_socket, "show proc"))


def parse_info(text: str) -> dict[str, str]:
    """Read `show info`."""
    rows = (line.partition(": ") for line in text.splitlines())
    return {name: value for name, _, value in rows}


@dataclass(frozen=True)
class ServerRow:
    """One cell in one process's statistics."""

    slot: str
    server: str
    current: int
    total: int
    status: str = ""
    """What its health checks found, in HAProxy's words."""
    failed_answers: int = 0
    """Requests that it was given and that HAProxy had to answer itself."""
    hung_up: int = 0
    """Those among them, and others, in which it ended the connection."""


SHOW_SERVERS = "show stat -1 4 -1"
"""Statistics of servers alone."""


def parse_servers(text: str) -> list[ServerRow]:
    """Read the answer to SHOW_SERVERS (CSV; columns found by name)."""
    lines = [line for line in text.splitlines() if line]
    if not lines or not lines[0].startswith("# "):
        return []
    columns = lines[0][2:].split(",")
    at = {name: columns.index(name) for name in ("pxname", "svname", "scur", "stot", "status")}
    more = {name: columns.index(name) for name in ("eresp", "srv_abrt") if name in columns}
    rows = (line.split(",") for line in lines[1:])
    return [
        ServerRow(
            row[at["pxname"]],
            row[at["svname"]],
            int(row[at["scur"]]),
            int(row[at["stot"]]),
            row[at["status"]],
            *(int(row[column] or 0) for column in more.values()),
        )
        for row in rows
    ]
