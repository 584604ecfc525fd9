"""One attack: a hostile worker is uploaded, asked in its own way, asked whether it is calm again, and
looked at from outside. Judges nothing; `corpus.complaints` does."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from kythera.ground.layout import Layout
from tests.hostile.asking import WAYS
from tests.hostile.corpus import Counts, Entry, Seen
from tests.platforms import Doors
from tests.processes import wait_until

CALM_S = 8.0
COUNTED_S = 3.0
LOOK_S = 0.05
STATUS_S = 10.0


def attacked(doors: Doors, entry: Entry) -> Seen:
    """Upload a worker, let it try, and look at what became of it."""
    upload = uploaded(doors, entry)
    codes = tuple(error["code"] for error in upload.json()["errors"])
    if upload.status_code != 200:
        return Seen(upload=(upload.status_code, codes), text=upload.text)
    first = calm(doors, entry)
    before = counts(doors, entry.worker)
    with memory_watched(before.pids) as memory:
        status, text, ray = WAYS[entry.ask](doors, f"{entry.worker}.{doors.domain}")
    then = calm(doors, entry) if first == "calm" else first
    after = counted(doors, entry, before)
    return Seen(status, text, ray, (200, codes), then, before, after, max(memory, default=0.0))


def uploaded(doors: Doors, entry: Entry) -> httpx.Response:
    """Upload a worker with its parts and settings."""
    settings = dict(entry.settings)
    document = {"main_module": "hostile.js", "compatibility_date": "2026-06-01", **settings}
    files: dict[str, Any] = {
        "metadata": (None, json.dumps(document), "application/json"),
        "hostile.js": ("hostile.js", entry.code, "application/javascript+module"),
    }
    for name, content in entry.parts.items():
        files[name] = (name, content, "application/wasm")
    return doors.call("PUT", f"/workers/scripts/{entry.worker}", files=files)


def calm(doors: Doors, entry: Entry) -> str:
    """Ask until the worker says that it is calm; return its last word."""
    said = [""]

    def says_calm() -> bool:
        try:
            answer = doors.get(entry.worker)
        except httpx.HTTPError as error:
            said[0] = type(error).__name__
            return False
        said[0] = (
            answer.text if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
        )
        return said[0] == "calm"

    return said[0] if within(CALM_S, says_calm) else f"not calm: {said[0]}"


def counted(doors: Doors, entry: Entry, before: Counts) -> Counts:
    """Return what is counted now; an end that is expected is waited for."""
    if entry.contained in ("exceededCpu", "exceededMemory", "crashed"):
        within(COUNTED_S, lambda: counts(doors, entry.worker).ends > before.ends)
    return counts(doors, entry.worker)


def counts(doors: Doors, worker: str) -> Counts:
    """Return what status tells of a worker's cells."""
    mine = [cell for cell in cells(doors) if cell["worker"] == worker]
    return Counts(
        exceeded_cpu=sum(cell["exceeded_cpu"] for cell in mine),
        exceeded_memory=sum(cell.get("exceeded_memory", 0) for cell in mine),
        crashes=sum(cell["crashes"] for cell in mine),
        pids=frozenset(pid for cell in mine for pid in cell["pids"]),
    )


def cells(doors: Doors) -> list[dict[str, Any]]:
    """Return all cells, straight from the agent: the command line takes half a second."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(STATUS_S)
        stream.connect(str(Layout(doors.state).status_socket))
        with stream.makefile("rb") as answer:
            document: dict[str, Any] = json.loads(answer.read())
    found: list[dict[str, Any]] = document["cells"]
    return found


@contextmanager
def memory_watched(pids: frozenset[int]) -> Iterator[list[float]]:
    """Note what some processes have, in MiB, for the length of a `with` block."""
    readings: list[float] = []
    end = threading.Event()

    def watch() -> None:
        while not end.wait(LOOK_S):
            readings.extend(resident_mib(pid) for pid in pids)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield readings
    finally:
        end.set()
        watcher.join()


def resident_mib(pid: int) -> float:
    """Return what a process has in memory that is its own; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    _, found, rest = status.partition("RssAnon:")
    return int(rest.split()[0]) / 1024 if found else 0.0


def within(seconds: float, holds: Callable[[], object]) -> bool:
    """Wait for a level; tell whether it came."""
    try:
        wait_until(holds, "", deadline_s=seconds)
    except AssertionError:
        return False
    return True
