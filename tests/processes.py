"""What tests ask the kernel about processes and descriptors: who lives, who belongs to whom.

Standard library and /proc alone, so that a check of the product does not lean on the product.
"""

import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.02


def wait_until(holds: Callable[[], object], what: str, *, deadline_s: float = 10) -> None:
    """Wait for a level, not for luck: return once `holds()` is true, fail at the deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(POLL_S)


def children(pid: int) -> set[int]:
    """Return the direct children of a process, whichever thread started them."""
    found: set[int] = set()
    for listing in PROC.glob(f"{pid}/task/*/children"):
        try:
            found.update(int(word) for word in listing.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def family(pid: int) -> set[int]:
    """Return all that descend from a process, without itself."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        for child in children(queue.pop()) - found:
            found.add(child)
            queue.append(child)
    return found


def birth(pid: int) -> str | None:
    """Return when a living process started (kernel ticks), None for a dead one or a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def births(pids: set[int]) -> dict[int, str]:
    """Return pid -> birth of those that live: a pid alone may be used again."""
    return {pid: born for pid in pids if (born := birth(pid)) is not None}


def alive(born: dict[int, str]) -> list[str]:
    """Return those of `births` that still live, each with its command line."""
    return [f"{pid} {command(pid)}" for pid, when in sorted(born.items()) if birth(pid) == when]


def command(pid: int) -> str:
    """Return a process's command line, for a message."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what each leads to."""
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that listed this folder
    return found
