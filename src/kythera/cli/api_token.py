"""`kythera api-token create | list | revoke`: who may call the API, and what for.

(`kythera token` makes the lines with which machines join.)
"""

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import click

from kythera.cli.command import Here, table, with_here
from kythera.cli.durations import Duration

TOKENS = "/tokens"
SCOPES = ("read", "deploy", "secrets", "admin")


@click.group("api-token")
def api_token() -> None:
    """Say who may call the API, and what for. Tokens for a colleague, a program, a CI."""


@api_token.command("create")
@click.option("--name", required=True, help="What the audit will call it.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may: may be given more than once. deploy and secrets include read.",
)
@click.option(
    "--worker",
    "workers",
    multiple=True,
    metavar="NAME",
    help="For this worker, there or not; may be given more than once  [default: all]",
)
@click.option(
    "--expires",
    type=Duration(never=True),
    metavar="TIME",
    help="30d, 12h, never  [default: 90 days]",
)
@with_here
def create(
    here: Here, name: str, scopes: Sequence[str], workers: Sequence[str], expires: float | None
) -> None:
    """Print a new token. It is shown this once: keep it as you keep a password.

    For wrangler: CLOUDFLARE_API_TOKEN=TOKEN (`kythera env` prints the other variables).
    """
    body: dict[str, Any] = {"name": name, "scopes": list(scopes), "workers": list(workers)}
    if expires is not None:
        body["life_s"] = None if math.isinf(expires) else expires
    with here.client() as client:
        made = client.call("POST", TOKENS, json=body)
    here.show(made, made["value"])
    if not here.json:
        # Beside the token, not on stdout with it: TOKEN=$(kythera api-token create …) must work.
        until = f"until {made['expires_on'][:10]}" if made["expires_on"] else "for ever"
        click.echo(f"{name}: {may(made)}, {until}. It is not shown again.", err=True)


def may(token: dict[str, Any]) -> str:
    """Return in words what a token may. Pure."""
    whose = ", ".join(token["workers"]) or "all workers"
    return f"{', '.join(token['scopes'])} for {whose}"


@api_token.command("list")
@with_here
def list_tokens(here: Here) -> None:
    """List the tokens; those that ended stay listed for a month. Never their texts."""
    with here.client() as client:
        found = client.call("GET", TOKENS) or []
    rows = [
        (
            each["name"],
            each["status"],
            ",".join(each["scopes"]),
            ",".join(each["workers"]) or "all",
            (each["expires_on"] or "never")[:10],
            each["created_by"] or "-",
            each["id"],
        )
        for each in found
    ]
    head = ("NAME", "STATE", "SCOPES", "WORKERS", "EXPIRES", "MADE BY", "ID")
    here.show(found, table(head, rows) if rows else "No API token but the one in the state folder.")


@api_token.command("revoke")
@click.argument("name")
@with_here
def revoke(here: Here, name: str) -> None:
    """Take the token NAME (or an id) back: it opens nothing any more, on no machine."""
    with here.client() as client:
        revoked = client.call("DELETE", f"{TOKENS}/{quote(name, safe='')}")
    here.show(revoked, f"The token {revoked['name']} opens nothing any more.")
