"""`kythera status`: what the agent sees now, as JSON or as two tables."""

import fcntl
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import click

from kythera.cli.command import Here, NotRunning, platform_of, table, with_here
from kythera.ground.layout import Layout
from kythera.node.up_options import LOCK_NAME

STATUS_S = 5.0
"""An agent that does not tell its status by then is not well."""
CHUNK = 1 << 16


@click.command()
@with_here
def status(here: Here) -> None:
    """Show machines and cells as they are now. A cell runs one version of one worker."""
    document = read_status(here.layout)
    here.show(document, text(document))


def is_running(layout: Layout) -> bool:
    """Tell whether a keeper holds this state folder."""
    try:
        descriptor = os.open(layout.state / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_status(layout: Layout) -> dict[str, Any]:
    """Return the agent's status. Raises NotRunning when nobody answers."""
    platform_of(layout)
    if not is_running(layout):
        raise NotRunning(
            f"the platform in {layout.state} is down.",
            remedy=f"Start it: kythera up --state {layout.state}",
        )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(STATUS_S)
            connection.connect(str(layout.status_socket))
            raw = b"".join(iter(lambda: connection.recv(CHUNK), b""))
        document = json.loads(raw)
    except (OSError, ValueError) as error:
        raise NotRunning(
            f"the platform in {layout.state} runs, but its agent does not answer "
            f"({type(error).__name__}).",
            remedy="It may be starting; else the log of `kythera up` says why, or `kythera doctor`.",
        ) from None
    assert isinstance(document, dict)
    return document


def text(document: dict[str, Any]) -> str:
    """Return the status as a person reads it. Pure."""
    machines = table(
        ("MACHINE", "STATE", "SITE", "CORES", "CPU", "LOG"),
        [
            (
                each.get("name", "?"),
                each.get("state", "?"),
                each.get("site", "-"),
                each.get("cores", "-"),
                percent(each.get("cpu_share")),
                each.get("log", "-"),
            )
            for each in document["machines"]
        ],
    )
    return f"{machines}\n\n{cells_text(document['cells'])}"


def cells_text(cells: Sequence[dict[str, Any]]) -> str:
    """Return the cells' table, busiest first; idle ones are counted if they are many."""
    if not cells:
        return "No worker is deployed. Deploy one: kythera deploy [PATH]"
    ordered = sorted(cells, key=lambda cell: (-cell["requests"], cell["worker"]))
    return table(
        ("WORKER", "VERSION", "STATE", "PROCESSES", "PRIVATE MEMORY", "CPU", "REQUESTS"),
        [
            (
                cell["worker"],
                cell["version"][:8],
                cell["state"],
                len(cell["pids"]),
                f"{cell['private_bytes'] / 1e6:.1f} MB" if cell["private_bytes"] else "-",
                f"{cell['cpu_seconds']:.1f} s",
                cell["requests"],
            )
            for cell in ordered
        ],
    )


def percent(share: float | None) -> str:
    """Return a share of one as a percentage."""
    return "-" if share is None else f"{share * 100:.0f} %"
