"""What the machine has to say of a cell that cannot speak for itself any more.

An event like workerd's own, to whoever watches the worker: a process that was killed leaves no
trace. Nobody there, or somebody slow, costs nothing: the event is lost, the log has it.
"""

from pathlib import Path
from typing import Any

import anyio
import httpx

from kythera.run.cell import CellName, Limited

POST_MS_MAX = 5_000
SAID: dict[Limited, tuple[str, str]] = {
    "cpu": ("exceededCpu", "Worker exceeded its CPU time limit."),
    "memory": ("exceededMemory", "Worker exceeded its memory limit."),
}
"""Outcome and message, in the words of Cloudflare's own tails."""


def last_words(cell: CellName, what: Limited, at: float) -> dict[str, Any]:
    """Return the event: a trace item as workerd makes them, without the request, which nobody
    knows. `at`: Unix seconds."""
    outcome, message = SAID[what]
    at_ms = round(at * 1000)
    return {
        "outcome": outcome,
        "event": None,
        "eventTimestamp": at_ms,
        "logs": [],
        "exceptions": [{"name": "Error", "message": message, "timestamp": at_ms}],
        "diagnosticsChannelEvents": [],
        "scriptName": cell.worker,
        "scriptVersion": {"id": cell.version_id},
        "truncated": False,
    }


async def tell_watchers(socket: Path, cell: CellName, what: Limited, at: float) -> None:
    """Send it where observed cells send their traces (`run/js/tail.js`)."""
    url = f"http://tail/{cell.account}/{cell.worker}/{cell.version_id}"
    with anyio.move_on_after(POST_MS_MAX / 1000):
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport) as client:
            try:
                await client.post(url, json=[last_words(cell, what, at)])
            except httpx.TransportError:
                return
