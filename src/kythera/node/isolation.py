"""How well this host shuts cells in: asked of a program that tries it, and remembered.

Promises: a whole success is remembered for as long as the host has not started anew and nothing
that it was made from has changed; anything less is tried again at each start. Refuses (SetupError)
to start where `--require-isolation strict` was asked and something is missing.
"""

import os
import sys
from pathlib import Path

import msgspec

from kythera import __version__
from kythera.ground.files import write_atomically
from kythera.ground.forking import Command, base_environment, find_program, run_to_end
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.model.platform import Isolation
from kythera.run.seccomp import writing
from kythera.run.workerd import find_workerd

PROGRAM_S_MAX = 30.0
NO_SANDBOX = "cells, the egress cell too, run without a sandbox"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What the program is told."""

    seccomp: str
    limits: Limits


def probed(layout: Layout, limits: Limits, *, strict: bool) -> Isolation:
    """Return what the host can do. Raises SetupError with `strict` when anything is missing."""
    mark, kept = _mark(), layout.state / "isolation.json"
    isolation = _remembered(kept, mark)
    if isolation is None:
        isolation = asked(layout.seccomp, limits)
        if not isolation.weaker:
            write_atomically(kept, msgspec.json.encode((mark, isolation)), 0o600)
    if strict and isolation.weaker:
        raise SetupError(
            "this host cannot shut cells in as --require-isolation strict asks: "
            + " ".join(isolation.weaker),
            remedy="Mend that (kythera doctor looks again), or start without the option.",
        )
    return isolation


def _remembered(path: Path, mark: str) -> Isolation | None:
    try:
        said, isolation = msgspec.json.decode(path.read_bytes(), type=tuple[str, Isolation])
    except (OSError, msgspec.MsgspecError):
        return None
    filters = (isolation.seccomp, writing(isolation.seccomp), isolation.seccomp_outward)
    there = all(Path(file).is_file() for file in filters)
    return isolation if said == mark and there else None


def _mark() -> str:
    """Return all that decides what a probe finds: host's start, programs, who we are."""
    parts = [BOOT_ID.read_text().strip(), str(os.geteuid()), __version__]
    try:
        for path in (find_workerd(), Path(find_program("bwrap"))):
            about = path.stat()
            parts.append(f"{path}:{about.st_size}:{about.st_mtime_ns}")
    except (SetupError, OSError):
        parts.append("something is missing")
    return " ".join(parts)


def asked(seccomp: Path, limits: Limits) -> Isolation:
    """Return what the program finds; it writes the filter of system calls to `seccomp`."""
    argv = (sys.executable, "-m", "kythera.node.isolation_probe")
    errand = Errand(seccomp=str(seccomp), limits=limits)
    given = msgspec.json.encode(errand)
    status, said = run_to_end(Command(argv, base_environment()), given, within_s=PROGRAM_S_MAX)
    try:
        return msgspec.json.decode(said, type=Isolation)
    except msgspec.MsgspecError:
        ended = f"{NO_SANDBOX}: trying one ended with {status}; what it said is in the log."
        return Isolation(weaker=(ended,))
