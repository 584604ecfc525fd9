"""Deploys the example worker on a platform that has none yet, while `kythera up` starts.

A process of its own, so that it never delays readiness. It waits for the API to answer, deploys,
says where, and ends; it ends without a word when there are workers already, when the keeper is
gone, or when the API did not answer in time.
"""

import os
import sys
import time
from pathlib import Path

import click

from kythera.cli import bundle, project, upload
from kythera.cli.client import Client, connect
from kythera.cli.command import NotRunning
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError

READY_S = 60.0
POLL_S = 0.1


def wait_for_workers(layout: Layout, keeper: int) -> list[str] | None:
    """Return the workers' names once the API of this start answers; None when it never did."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and os.getppid() == keeper:
        try:
            with connect(layout) as client:
                return [each["id"] for each in client.call("GET", "/workers/scripts") or []]
        except (KytheraError, OSError):
            time.sleep(POLL_S)
    return None


def deploy(client: Client, folder: Path) -> upload.Deployed:
    """Deploy the example in `folder`."""
    wanted = project.read(folder)
    return upload.put(client, wanted, bundle.bundle(wanted), (), note=lambda _text: None)


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--keeper", type=int, required=True)
@click.argument("folder", type=click.Path(path_type=Path))
def main(state: Path, keeper: int, folder: Path) -> None:
    """Deploy FOLDER when the platform in STATE is ready and empty."""
    layout = Layout(state)
    if wait_for_workers(layout, keeper) != []:
        return
    try:
        with connect(layout) as client:
            done = deploy(client, folder)
        click.echo(f"  example   {done.urls[0]}")
    except NotRunning:
        return
    except KytheraError as error:
        click.echo(f"The example could not be deployed: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
