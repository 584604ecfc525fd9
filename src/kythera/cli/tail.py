"""`kythera tail`: watch one worker live (WebSocket, trace-v1). Ends with Ctrl-C, and then tells the
API, so that the observed cell is swapped back at once."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import click
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from kythera.cli.client import Client
from kythera.cli.command import Here, with_here
from kythera.cli.tail_text import STATUSES, filters, pretty
from kythera.model.errors import KytheraError

OPEN_S = 10.0
EVENT_BYTES_MAX = 4 * 1024 * 1024


@click.command()
@click.argument("name")
@click.option("--format", "style", type=click.Choice(["pretty", "json"]), default="pretty")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice(list(STATUSES)), help="Repeat it."
)
@click.option("--method", "methods", multiple=True, help="GET, POST …; repeat it.")
@click.option("--search", help="Only events whose console output has this text.")
@click.option("--sampling-rate", type=click.FloatRange(0, 1), help="1 shows all, 0.01 one in 100.")
@with_here
def tail(here: Here, name: str, style: str, **chosen: Any) -> None:
    """Watch a worker's requests, console and exceptions. Ctrl-C ends it.

    With --json (or --format json) each event is one line, verbatim.
    """
    verbatim = here.json or style == "json"
    with here.client() as client:
        body = {"filters": filters(**chosen)}
        opened = client.call("POST", client.script(name, "/tails"), json=body)
        try:
            if not verbatim:
                click.echo(f"Watching {name}; Ctrl-C ends it.")
            anyio.run(_print_events, opened["url"], verbatim)
        finally:
            close(client, name, opened["id"])


def close(client: Client, name: str, tail_id: str) -> None:
    """End the tail; the platform forgets it soon anyway, so a failure is no matter."""
    try:
        client.call("DELETE", client.script(name, f"/tails/{tail_id}"))
    except KytheraError:
        return


async def _print_events(url: str, verbatim: bool) -> None:
    async for event in events(url):
        click.echo(json.dumps(event) if verbatim else pretty(event))


async def events(url: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of an opened tail until it closes. Raises KytheraError when it breaks."""
    try:
        async with connect_websocket(
            url,
            subprotocols=[Subprotocol("trace-v1")],
            open_timeout=OPEN_S,
            max_size=EVENT_BYTES_MAX,
            proxy=None,
        ) as socket:
            await socket.send('{"debug":false}')
            async for frame in socket:
                yield json.loads(frame)
    except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
        raise KytheraError(
            f"the tail broke off: {error}.",
            remedy="Run the command again; `kythera status` tells whether the platform is up.",
        ) from error
