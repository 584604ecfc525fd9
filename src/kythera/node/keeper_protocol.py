"""What keeper and agent say to each other: one JSON message a datagram, descriptors beside it.

The agent asks (`Listen`, `Close`, `Spawn`, `Signal`, `Announce`) and gets one `Answer` with the
same id. The keeper tells: first all it holds (`Sockets…`, `Processes…`, `Whole`), then what
happens (`BecameReady`, `Ended`, `Stopping`), and `Ping`, to which the agent says `Pong`.
Pure: no socket here.
"""

import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from kythera.ground.sockets import DESCRIPTORS_MAX, MESSAGE_BYTES_MAX

STOP_FRONT = 0
STOP_CELLS = 1
STOP_API = 5
STOP_AGENT = 6
STOP_LOG = 9
"""Orders of stopping: the lowest first. The agent gives them to `spawn`."""

NAME = re.compile(r"[!-z~]{1,200}")
"""Names of sockets and processes: printable, without blanks, braces and bars (placeholders use
braces; to systemd, which keeps sockets under the same names, bars stand for colons)."""


class ProtocolError(Exception):
    """A request that cannot be obeyed; its text goes back as the answer."""


class SocketFact(Struct, frozen=True):
    """A listening socket that the keeper holds; its descriptor travels beside it."""

    name: str
    path: str = ""


class ProcessFact(Struct, frozen=True):
    """A running child; its output's read end travels beside it."""

    name: str
    pid: int
    tags: dict[str, Any]
    ready: bool
    started: float


class Request(Struct, frozen=True, tag_field="type"):
    """What the agent asks."""


class Listen(Request, frozen=True, tag="listen"):
    """Listen on a unix socket and hold it."""

    id: int
    name: str
    path: str
    backlog: int


class Close(Request, frozen=True, tag="close"):
    """Let go of a socket and unlink its path."""

    id: int
    name: str


class Spawn(Request, frozen=True, tag="spawn", kw_only=True):
    """Start a child; with `stdin`, one descriptor travels beside."""

    id: int
    name: str
    argv: list[str]
    env: dict[str, str] | None = None
    stdin: bool = False
    control: bool = False
    tags: dict[str, Any] = {}
    rlimits: dict[str, int] = {}
    batch: bool = False
    uid: int | None = None
    stage: dict[str, str] = {}
    cgroups: list[str] = []
    stop_signal: int = signal.SIGTERM
    stop_order: int = STOP_FRONT


class Signal(Request, frozen=True, tag="signal"):
    """Send a signal to a child."""

    id: int
    name: str
    signum: int


class Announce(Request, frozen=True, tag="announce"):
    """The platform is ready to serve."""

    id: int
    facts: dict[str, Any]


class Pong(Request, frozen=True, tag="pong"):
    """The agent's loop turns."""


class Note(Struct, frozen=True, tag_field="type"):
    """What the keeper tells."""


class Sockets(Note, frozen=True, tag="sockets"):
    """Some of the sockets held; one descriptor each."""

    items: list[SocketFact]


class Processes(Note, frozen=True, tag="processes"):
    """Some of the children; one descriptor each."""

    items: list[ProcessFact]


class Whole(Note, frozen=True, tag="whole"):
    """All that is held has been told."""


class Answer(Note, frozen=True, tag="answer", kw_only=True):
    """The end of one request: an error, or done (with what it made)."""

    id: int
    error: str = ""
    socket: SocketFact | None = None
    process: ProcessFact | None = None


class BecameReady(Note, frozen=True, tag="ready"):
    """A child said on its control pipe that it listens."""

    name: str
    pid: int


class Ended(Note, frozen=True, tag="ended"):
    """A child is gone and reaped: exit code, or minus a signal."""

    name: str
    pid: int
    status: int


class Stopping(Note, frozen=True, tag="stopping"):
    """The platform stops: what is told to end is not to be started again."""


class Ping(Note, frozen=True, tag="ping"):
    """Are you there?"""


AnyRequest = Listen | Close | Spawn | Signal | Announce | Pong
AnyNote = Sockets | Processes | Whole | Answer | BecameReady | Ended | Stopping | Ping
_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(AnyRequest)
_notes = msgspec.json.Decoder(AnyNote)


def encode(message: AnyRequest | AnyNote) -> bytes:
    """Return a message's datagram. Raises ProtocolError when it is too long for one."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a message of {len(data)} bytes; {MESSAGE_BYTES_MAX} fit")
    return data


def decode_request(data: bytes) -> AnyRequest:
    """Read what the agent asks. Raises msgspec.MsgspecError for garbage."""
    request: AnyRequest = _requests.decode(data)
    return request


def decode_note(data: bytes) -> AnyNote:
    """Read what the keeper tells. Raises msgspec.MsgspecError for garbage."""
    note: AnyNote = _notes.decode(data)
    return note


class Batch(NamedTuple):
    """Facts that fit one message, with their descriptors."""

    items: list[Any]
    descriptors: list[int]


def batches(
    facts: Iterable[tuple[Struct, int]], bytes_max: int = MESSAGE_BYTES_MAX - 1024
) -> Iterator[Batch]:
    """Cut facts into messages: in order, none lost, each within both limits where it can be."""
    batch, size = Batch([], []), 0
    for fact, descriptor in facts:
        length = len(_encoder.encode(fact)) + 1
        full = len(batch.descriptors) == DESCRIPTORS_MAX or size + length > bytes_max
        if full and batch.items:
            yield batch
            batch, size = Batch([], []), 0
        batch.items.append(fact)
        batch.descriptors.append(descriptor)
        size += length
    if batch.items:
        yield batch


_PLACE = re.compile(r"\{(socket:[^{}]+|file:[^{}]+|control|info)\}")


class Filled(NamedTuple):
    """A command with its placeholders replaced by the child's descriptor numbers."""

    argv: list[str]
    env: dict[str, str]
    sockets: dict[str, int]
    """Socket's name → the child's number."""
    files: dict[str, int]
    """Path of a file to open for reading → the child's number."""
    control: int | None
    info: int | None
    """Another number of the control pipe: what bubblewrap tells of the process inside it."""


def fill(argv: Sequence[str], env: Mapping[str, str], *, control: bool, first: int = 3) -> Filled:
    """Number the sockets that `{socket:NAME}` names from 3 on, and with them `{file:PATH}`,
    `{control}` and `{info}`.

    Raises ProtocolError for the last two without a control pipe."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[1] in ("control", "info") and not control:
            raise ProtocolError(f"{{{match[1]}}} needs control=True")
        return str(numbers.setdefault(match[1], first + len(numbers)))

    new_argv = [_PLACE.sub(number, word) for word in argv]
    new_env = {name: _PLACE.sub(number, value) for name, value in env.items()}
    return Filled(
        new_argv,
        new_env,
        _named(numbers, "socket:"),
        _named(numbers, "file:"),
        numbers.get("control"),
        numbers.get("info"),
    )


def _named(numbers: Mapping[str, int], kind: str) -> dict[str, int]:
    return {what.removeprefix(kind): n for what, n in numbers.items() if what.startswith(kind)}
