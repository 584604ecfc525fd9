"""`kythera status`: the whole fleet as it is now, as JSON or as two tables.

The API of any machine tells it. When that does not answer, this machine's agent tells of this machine
alone, and the command says so.
"""

import fcntl
import json
import os
import socket
from typing import Any

import click

from kythera.cli.client import connect
from kythera.cli.command import Here, NotRunning, platform_of, with_here
from kythera.cli.status_text import text
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.node.up_options import LOCK_NAME

STATUS_S = 5.0
"""An agent that does not tell its status by then is not well."""
FLEET_S = 15.0
"""The API asks all machines at once and gives none more than `fleet_status_ms`."""
CHUNK = 1 << 16


@click.command()
@with_here
def status(here: Here) -> None:
    """Show machines and cells as they are now. A cell runs one version of one worker."""
    platform_of(here.layout)
    document, why = fleet_status(here.layout)
    if document is None:
        document = read_status(here.layout)
        note = f"The API does not tell the fleet's status ({why}): this is this machine alone."
        click.echo(json.dumps({"note": note}) if here.json else note, err=True)
    here.show(document, text(document))


def fleet_status(layout: Layout) -> tuple[dict[str, Any] | None, str]:
    """Return the whole fleet's status from this machine's API; or None, and why there is none."""
    try:
        with connect(layout) as client:
            found = client.call("GET", "/kythera/status", timeout=FLEET_S)
    except KytheraError as error:
        return None, error.message
    if isinstance(found, dict) and found.get("machines"):
        return found, ""
    return None, "its answer is none"


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
