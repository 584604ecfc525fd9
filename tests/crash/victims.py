"""Which process of a platform is what, as the kernel tells it."""

from pathlib import Path

from tests.platforms import RunningPlatform
from tests.processes import command, family

MARKS = (
    ("kythera.node.agent", "agent"),
    ("kythera.control.server", "api"),
    ("kythera.node.kv_server", "kv"),
    ("kythera.store.r2_server", "r2"),
    ("/weed ", "engine"),
    ("/nats-server ", "log"),
    ("/haproxy ", "front"),
    ("/workerd serve ", "workerd"),
)
FOLDERS = (("/data/d1/", "d1"), ("/data/queues/", "queues"), ("/objects/", "objects"))
"""A workerd that has a file of one of these open is that store; the others are cells."""
COUNTS = "--socket-fd counters="
"""Which socket the egress cell alone has."""


def kind(line: str, files: frozenset[str]) -> str:
    """Return what a process is, by its command line and the files it has open; empty: nobody who is to be
    hit (a sandbox's own process, whose end is its child's)."""
    program = line.split(" ", 1)[0]
    if program.endswith("/bwrap"):
        return ""
    found = next((kind for mark, kind in MARKS if mark in f"{line} "), "")
    if found != "workerd":
        return found
    if COUNTS in line:
        return "egress"
    stores = (kind for folder, kind in FOLDERS if any(folder in file for file in files))
    return next(stores, "cell")


def victims(platform: RunningPlatform) -> dict[str, list[int]]:
    """Return the processes of each kind, oldest numbers first."""
    found: dict[str, list[int]] = {}
    for pid in sorted(family(platform.process.pid)):
        if told := kind(command(pid), _files(pid)):
            found.setdefault(told, []).append(pid)
    return found


def _files(pid: int) -> frozenset[str]:
    try:
        links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return frozenset()
    return frozenset(link for link in links if link.startswith("/"))
