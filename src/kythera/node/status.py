"""What an operator sees of this machine: `kythera status` connects, reads one JSON document.

The shape is part of the interface: {"machines": [...], "cells": [...], "objects": [...]}.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

import kythera
from kythera.ground.meters import machine_cpu_seconds, machine_memory_bytes, private_bytes
from kythera.model.platform import Platform
from kythera.node.incidents import IncidentBook
from kythera.run.cell import Cell
from kythera.run.decide import Cells
from kythera.run.egress_counts import Counts
from kythera.run.store_counts import StoreCounts

SEND_S = 5.0
MEASURE_S = 1.0


@dataclass
class MachineFacts:
    """What the agent's other loops last reported."""

    log: str = "connecting"
    front: str = "not started"
    applied_seq: int = 0
    workerd: str = ""
    """Version and mark of the workerd that new cells run,"""
    workerd_mark: str = ""
    workerd_wanted: str = ""
    """the mark of what was chosen, as far as the agent has looked,"""
    workerd_change: str = ""
    """how a change to another one goes; empty: there is none,"""
    workerds: dict[str, str] = field(default_factory=dict)
    """and the versions of all that run here, by their marks."""
    cpu_share: float = 0.0
    """Busy part of all cores in the last MEASURE_S."""
    unknown_records: dict[str, str] = field(default_factory=dict)
    state: str = "active"
    """`active`, `draining` or `removed`; a copy that is being made shows as `filling`."""
    core: bool = False
    source: str = "core"
    """Where the records come from: `core`, or the name of the relay that is followed."""
    relay: bool = False
    """Whether others follow this machine."""
    lag_ms: int | None = None
    """Age of the newest heartbeat applied; None before the first."""
    clock_offset_ms: int | None = None
    """This machine's clock minus the clock of who writes the heartbeat."""
    filling: tuple[int, int] | None = None
    """While the copy is not whole: the sequence applied, and the one to reach."""
    mesh: str = ""
    """Where other machines reach this one; empty: the platform's settings say."""
    egress: Counts = field(default_factory=Counts)
    """What workers have sent to the outside."""
    stores: dict[str, StoreCounts] = field(default_factory=dict)
    """What workers have asked of the stores that count it."""

    refused: dict[str, int] = field(default_factory=dict)
    """What the front door refused or ended, by reason."""

    objects: Callable[[], list[dict[str, Any]]] = list
    """What there is to say of object cells."""

    def store_counted(self, name: str, counts: StoreCounts) -> None:
        """Take what a store has counted."""
        self.stores[name] = counts

    async def measure(self) -> None:
        """Keep `cpu_share` current, for ever."""
        busy, total = machine_cpu_seconds()
        while True:
            await anyio.sleep(MEASURE_S)
            busy_now, total_now = machine_cpu_seconds()
            if total_now > total:
                self.cpu_share = (busy_now - busy) / (total_now - total)
            busy, total = busy_now, total_now


def cell_status(
    machine: str, cell: Cell, starts_failed_max: int, workerds: Mapping[str, str]
) -> dict[str, Any]:
    """Return one cell as the interface shows it."""
    pids = [process.pid for process in cell.processes.values() if process.pid]
    cpu = sum(process.cpu_seconds for process in cell.processes.values())
    return {
        "machine": machine,
        "worker": cell.name.worker,
        "version": cell.name.version_id,
        "state": cell.state(starts_failed_max),
        "pids": pids,
        "private_bytes": sum(private_bytes(pid) for pid in pids),
        "cpu_seconds": round(cell.cpu_past + cpu, 3),
        "requests": cell.requests_past + cell.requests,
        "account": cell.name.account,
        "generation": cell.name.generation,
        "observed": cell.name.observed,
        "server": cell.name.server,
        "current": cell.current,
        "crashes": cell.crashes_all,
        "exceeded_cpu": cell.exceeded["cpu"],
        "exceeded_memory": cell.exceeded["memory"],
        "starts_failed": cell.starts_failed,
        "workerd": _versions(cell, workerds),
    }


def _versions(cell: Cell, workerds: Mapping[str, str]) -> str:
    """Return the versions of what a cell's processes run; one, but for a moment."""
    marks = dict.fromkeys(process.workerd for process in cell.processes.values())
    return ", ".join(workerds.get(mark, mark or "?") for mark in marks)


def filling(facts: MachineFacts) -> dict[str, int] | None:
    """Return how far a copy is that is being made; None when it is whole."""
    if facts.filling is None:
        return None
    applied, target = facts.filling
    return {"applied": applied, "target": target}


def status(platform: Platform, cells: Cells, facts: MachineFacts) -> dict[str, Any]:
    """Return the whole document."""
    used_bytes, total_bytes = machine_memory_bytes()
    machine = {
        "name": platform.machine,
        "site": platform.site,
        "region": platform.region,
        "world": platform.world,
        "state": "filling" if facts.filling is not None else facts.state,
        "core": facts.core,
        "source": facts.source,
        "relay": facts.relay,
        "lag_ms": facts.lag_ms,
        "clock_offset_ms": facts.clock_offset_ms,
        "filling": filling(facts),
        "egress": msgspec.to_builtins(facts.egress),
        "stores": msgspec.to_builtins(facts.stores),
        "mesh": facts.mesh or platform.mesh_advertised or platform.mesh,
        "memory": {"used_bytes": used_bytes, "total_bytes": total_bytes},
        "cells": sum(len(worker.cells) for worker in cells.workers.values()),
        "kythera": kythera.__version__,
        "workerd": facts.workerd,
        "workerd_mark": facts.workerd_mark,
        "workerd_wanted": facts.workerd_wanted,
        "workerd_change": facts.workerd_change,
        "cores": os.cpu_count() or 1,
        "cpu_share": round(facts.cpu_share, 3),
        "applied_seq": facts.applied_seq,
        "log": facts.log,
        "front": facts.front,
        "refused": facts.refused,
        "unknown_records": facts.unknown_records,
    }
    limit = platform.limits.starts_failed_max
    listed = [
        cell_status(platform.machine, cell, limit, facts.workerds)
        for worker in cells.workers.values()
        for cell in worker.cells.values()
    ]
    return {
        "machines": [machine],
        "cells": listed,
        "objects": [
            {
                **told,
                "machine": platform.machine,
                "workerd": facts.workerds.get(told["workerd"], told["workerd"]),
            }
            for told in facts.objects()
        ],
    }


class StatusServer:
    """Serves the document on a unix socket, one for each connection."""

    def __init__(
        self,
        path: str,
        platform: Platform,
        cells: Cells,
        facts: MachineFacts,
        incidents: IncidentBook,
    ) -> None:
        self._incidents = incidents
        self._path = path
        self._platform = platform
        self._cells = cells
        self._facts = facts

    async def run(self) -> None:
        """Serve for ever; the socket is replaced when an earlier agent left one."""
        await anyio.Path(self._path).unlink(missing_ok=True)
        async with await anyio.create_unix_listener(self._path, mode=0o600) as listener:
            await listener.serve(self._send)

    async def _send(self, stream: anyio.abc.SocketStream) -> None:
        told = status(self._platform, self._cells, self._facts)
        document = msgspec.json.encode({**told, "incidents": self._incidents.document()})
        async with stream:
            with anyio.move_on_after(SEND_S):
                try:
                    await stream.send(document)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
