"""Deploys the example worker on a platform that has none yet, while `kythera up` starts.

A process of its own, so that it never delays readiness. It waits for the API to answer, deploys,
says where, and ends; it ends without a word when other workers are there, when the keeper is
gone, or when the API did not answer in time.
"""

import os
import select
import sys
import time
from pathlib import Path

import click

from kythera.cli import bundle, project, upload
from kythera.cli.client import Client, connect, worker_urls
from kythera.cli.command import NotRunning
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError

READY_S = 60.0
POLL_S = 0.1


def wait_for_workers(layout: Layout, keeper: int) -> list[str] | None:
    """Return the workers' names once the API of this start answers; None when it never did."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with connect(layout) as client:
                return [each["id"] for each in client.call("GET", "/workers/scripts") or []]
        except (KytheraError, OSError):
            ended, _, _ = select.select([keeper], [], [], POLL_S)
            if ended:
                return None
    return None


def deploy(client: Client, wanted: project.Project) -> str:
    """Deploy the example; return where it is served."""
    done = upload.put(client, wanted, bundle.bundle(wanted), (), note=lambda _text: None)
    return done.urls[0]


def serve(layout: Layout, keeper: int, folder: Path) -> str | None:
    """Return where the example is served, deployed now if the platform is empty; else None."""
    workers = wait_for_workers(layout, keeper)
    if workers is None:
        return None
    wanted = project.read(folder)
    with connect(layout) as client:
        if not workers:
            return deploy(client, wanted)
        hostname = f"{wanted.name}.{client.platform.domain}"
        return worker_urls(client.platform, hostname)[0] if wanted.name in workers else None


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--keeper", type=int, required=True)
@click.argument("folder", type=click.Path(path_type=Path))
def main(state: Path, keeper: int, folder: Path) -> None:
    """Deploy FOLDER when the platform in STATE, kept by process KEEPER, is ready and empty."""
    try:
        url = serve(Layout(state), os.pidfd_open(keeper), folder)
    except (NotRunning, ProcessLookupError):
        return
    except KytheraError as error:
        click.echo(f"The example could not be deployed: {error}", err=True)
        sys.exit(1)
    if url is not None:
        click.echo(f"The example is served: curl {url}\n")


if __name__ == "__main__":
    main()
