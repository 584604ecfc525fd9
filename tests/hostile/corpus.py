"""The corpus: what each hostile worker tries, what has to become of it, and whether it did.

Pure. Each file opens with comments that a program reads: `tries` (a phrase), `contained` (one of
OUTCOMES), and where they are needed `settings` (what its upload says beside its code), `ask` (one
of ASKS; a POST otherwise) and `answered: maybe` (the answer may leave before the end comes). A GET
is answered with `calm` by each of them: so the runner sees that it serves again afterwards.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kythera.model.limits import MIB, Limits
from kythera.run.sandbox import data_bytes_max

FOLDER = Path(__file__).parent
OUTCOMES = {
    "exceededCpu": "its process is ended, and counted so; 503 with code 1102 and the ray id",
    "exceededMemory": "its process ends; 503 with code 1102 and the ray id",
    "boundedMemory": "the same, or its allocation is refused; it never has more than its bound",
    "ended": "its process or its request is ended, by whichever limit it meets first",
    "crashed": "its process ends itself; 503 with code 1102 and the ray id",
    "error": "500 for this request alone; its process goes on",
    "served": "200, and it says itself that it reached nothing; its process goes on",
    "noAnswer": "200 or an error, and the process goes on",
    "cut": "the answer has no end, or none that counts; whoever asked can leave, and it calms down",
    "refusedUpload": "nothing is stored; 400 with code 10021",
    "any": "an answer, an error or an end of its own; never a word that it reached something",
}
ASKS = ("post", "websocket", "endless_body", "read", "unread", "many", "few", "impatient")
ELSEWHERE = ("clocks",)
"""Folders whose workers say themselves what they saw: asked by tests/run/test_clocks.py."""
ENDED = ("exceededCpu", "exceededMemory", "crashed")
REACHED = "reached"
MEMORY_MIB_MAX = data_bytes_max(Limits().heap_mib_max, 0) / MIB + 24
"""What a worker that says nothing may have at most: its heap, as much again, what is spared for
workerd, and what that has when it is idle."""
HEADER = re.compile(r"// (tries|contained|settings|ask|answered): (.+)")


@dataclass(frozen=True)
class Entry:
    """One hostile worker."""

    name: str
    tries: str
    contained: str
    code: str
    settings: dict[str, Any] = field(default_factory=dict)
    ask: str = "post"
    answered: bool = True
    """Whether the end comes before the answer for sure."""
    parts: dict[str, bytes] = field(default_factory=dict)
    """Modules beside it, by file name."""

    @property
    def worker(self) -> str:
        """Return a name that a worker may have."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())


@dataclass(frozen=True)
class Counts:
    """What status tells of a worker's cells."""

    exceeded_cpu: int = 0
    exceeded_memory: int = 0
    crashes: int = 0
    pids: frozenset[int] = frozenset()

    @property
    def ends(self) -> int:
        """Return how many of its processes have ended by force."""
        return self.exceeded_cpu + self.exceeded_memory + self.crashes


@dataclass(frozen=True)
class Seen:
    """What became of one attack."""

    status: int | None = None
    """None: no whole answer."""
    text: str = ""
    ray: str = ""
    upload: tuple[int, tuple[int, ...]] = (200, ())
    """The upload's status and codes."""
    calm: str = "calm"
    """What a GET was answered afterwards."""
    before: Counts = Counts()
    after: Counts = Counts()
    memory_mib: float = 0.0
    """The most that its processes had while it was asked."""


def read_entry(path: Path) -> Entry:
    """Read one file of the corpus."""
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    return parse_entry(name, path.read_text(), path.parent)


def parse_entry(name: str, code: str, folder: Path) -> Entry:
    """Read a file's text. Raises ValueError for what the runner would not check."""
    told: dict[str, str] = {}
    for line in code.splitlines():
        if (found := HEADER.fullmatch(line)) is not None:
            told[found[1]] = found[2]
    ask = told.get("ask", "post")
    if "tries" not in told or told.get("contained") not in OUTCOMES or ask not in ASKS:
        raise ValueError(f"{name} does not say what it tries and how it is contained: {told}")
    wanted = re.findall(r"from '\./([\w-]+\.wasm)'", code)
    return Entry(
        name=name,
        tries=told["tries"],
        contained=told["contained"],
        code=code,
        settings=json.loads(told.get("settings", "{}")),
        ask=ask,
        answered=told.get("answered") != "maybe",
        parts={part: (folder / part).read_bytes() for part in wanted},
    )


def corpus() -> list[Entry]:
    """Return all entries, class by class."""
    paths = sorted(FOLDER.glob("*/*.js"))
    return [read_entry(path) for path in paths if path.parent.name not in ELSEWHERE]


def complaints(entry: Entry, seen: Seen) -> list[str]:
    """Return what is not as the entry says; nothing when it was contained."""
    found = list(_upload(entry, seen))
    if found or entry.contained == "refusedUpload":
        return found
    if REACHED in seen.text:
        found.append(f"it says: {seen.text[:300]}")
    if seen.calm != "calm":
        found.append(f"the next request is not served: {seen.calm[:200]}")
    if seen.memory_mib > MEMORY_MIB_MAX:
        found.append(f"it had {seen.memory_mib:.0f} MiB")
    return found + _answer(entry, seen) + _ends(entry, seen)


def _upload(entry: Entry, seen: Seen) -> list[str]:
    status, codes = seen.upload
    if entry.contained == "refusedUpload":
        refused = status == 400 and 10021 in codes
        return [] if refused else [f"the upload was answered {status} {codes}"]
    if status == 200 or (entry.contained == "any" and status == 400):
        return []
    return [f"the upload was refused: {status} {codes} {seen.text[:300]}"]


def _answer(entry: Entry, seen: Seen) -> list[str]:
    """Look at what the attacker itself was told."""
    wants = {
        "error": (500,),
        "served": (200,),
        "boundedMemory": (200, 413, 500, 503, None),
        "ended": (500, 503),
        "noAnswer": (200, 500, 502, 503),
    }.get(entry.contained)
    if entry.contained in ENDED and entry.answered and entry.ask == "post":
        page = seen.status == 503 and "1102" in seen.text and seen.ray and seen.ray in seen.text
        return [] if page else [f"no 503 with code 1102 and ray: {seen.status} {seen.text[:200]}"]
    if wants is not None and entry.ask == "post" and seen.status not in wants:
        return [f"answered {seen.status}, not {wants}: {seen.text[:300]}"]
    if entry.contained == "served" and not seen.text.startswith("contained"):
        return [f"it does not say that it was contained: {seen.text[:300]}"]
    return []


def _ends(entry: Entry, seen: Seen) -> list[str]:
    """Look at what the machine counted."""
    before, after = seen.before, seen.after
    if entry.contained == "exceededCpu" and after.exceeded_cpu <= before.exceeded_cpu:
        return [f"no loop was counted: {after}"]
    if entry.contained in ("exceededMemory", "crashed") and after.ends <= before.ends:
        return [f"no end was counted: {after}"]
    if entry.contained == "exceededMemory" and after.exceeded_cpu > before.exceeded_cpu:
        return [f"it was ended for its CPU: {after}"]
    if entry.contained in ("error", "served", "noAnswer") and after.ends > before.ends:
        return [f"a process ended: {after}"]
    return []
