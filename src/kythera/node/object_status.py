"""What an operator sees of this machine's object cells: a part of the status document.

Facts in, one document for each cell out; memory and CPU time are read from the kernel.
"""

from dataclasses import dataclass
from typing import Any, Literal

from kythera.ground.clock import iso
from kythera.ground.meters import cpu_seconds, private_bytes
from kythera.node.keeper_client import HeldProcess
from kythera.run.cell import WorkerKey

State = Literal["up", "starting", "stopping", "failing"]


@dataclass
class Lives:
    """How often one worker's object cell was started, since this agent began."""

    restarts: int = 0
    """Whatever the reason was: a deploy, another workerd, an end that nobody had ordered."""
    crashes: int = 0
    """Ends that nobody had ordered."""


def object_cell(
    key: WorkerKey,
    held: HeldProcess | None,
    state: State,
    *,
    classes: list[str],
    workflows: list[str],
    lives: Lives,
    watched: bool,
) -> dict[str, Any]:
    """Return one object cell as the interface shows it, but for what only the machine knows."""
    pid = 0 if held is None else held.pid
    tags = {} if held is None else held.tags
    return {
        "account": key[0],
        "worker": key[1],
        "version": str(tags.get("version", "")),
        "state": state,
        "classes": classes,
        "workflows": workflows,
        "pids": [pid] if pid else [],
        "private_bytes": private_bytes(pid) if pid else 0,
        "cpu_seconds": round(cpu_seconds(pid), 3) if pid else 0.0,
        "since": "" if held is None else iso(held.started),
        "restarts": lives.restarts,
        "crashes": lives.crashes,
        "observed": watched,
        "workerd": str(tags.get("workerd", "")),
    }
