"""`kythera token create | list | revoke`: lines with which machines join the fleet."""

from datetime import datetime
from urllib.parse import quote

import click

from kythera.cli.command import Here, table, with_here

TOKENS = "/kythera/tokens"


@click.group()
def token() -> None:
    """Make the lines with which machines join."""


@token.command("create")
@click.option("--life", type=float, default=None, metavar="SECONDS", help="  [default: an hour]")
@with_here
def create(here: Here, life: float | None) -> None:
    """Print a line with which one machine may join, once, until it expires.

    The line is a secret. On the other machine: kythera up --join LINE --site NAME --mesh HOST:PORT
    """
    with here.client() as client:
        made = client.call("POST", TOKENS, json={} if life is None else {"life_s": life})
    here.show(made, made["token"])
    if not here.json:
        # Beside the line, not on stdout with it: TOKEN=$(kythera token create) must work.
        until = datetime.fromisoformat(made["expires_on"]).astimezone()
        click.echo(
            f"Good once, until {until:%Y-%m-%d %H:%M}. On the machine that is to join:", err=True
        )
        click.echo("  kythera up --join TOKEN --site NAME --mesh HOST:PORT", err=True)
        if made["warning"]:
            click.secho(f"Warning: {made['warning']}", fg="yellow", err=True)


@token.command("list")
@with_here
def list_tokens(here: Here) -> None:
    """List the tokens: open, used by which machine, or expired. Their secrets are never shown."""
    with here.client() as client:
        found = client.call("GET", TOKENS) or []
    rows = [
        (each["id"], each["state"], each["expires_on"], each["used_by"] or "-") for each in found
    ]
    text = table(("TOKEN", "STATE", "EXPIRES", "USED BY"), rows) if rows else "No token."
    here.show(found, text)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@with_here
def revoke(here: Here, token_id: str) -> None:
    """Take the token ID back: nobody joins with it any more."""
    with here.client() as client:
        client.call("DELETE", f"{TOKENS}/{quote(token_id, safe='')}")
    here.show({"revoked": token_id}, f"Nobody can join with the token {token_id} any more.")
