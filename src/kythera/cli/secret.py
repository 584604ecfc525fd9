"""`kythera secret put | list | delete`: texts a worker is given and nobody gets back."""

import sys
from urllib.parse import quote

import click

from kythera.cli.command import Here, table, with_here
from kythera.model.errors import KytheraError


@click.group()
def secret() -> None:
    """Set, list and delete a worker's secrets."""


@secret.command("put")
@click.argument("name")
@click.argument("key")
@with_here
def put(here: Here, name: str, key: str) -> None:
    """Give worker NAME the secret KEY. The text is read from stdin, or asked for.

    A new version with the secret serves at once; the secret survives later deploys.
    """
    if sys.stdin.isatty():
        text = click.prompt(f"Text of {key}", hide_input=True)
    else:
        text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise KytheraError("the secret is empty.", remedy="Pipe its text into the command.")
    with here.client() as client:
        body = {"name": key, "text": text, "type": "secret_text"}
        client.call("PUT", client.script(name, "/secrets"), json=body)
    here.show({"worker": name, "secret": key}, f"{name} has the secret {key}.")


@secret.command("list")
@click.argument("name")
@with_here
def list_secrets(here: Here, name: str) -> None:
    """List the names of worker NAME's secrets. Their texts are never shown."""
    with here.client() as client:
        found = client.call("GET", client.script(name, "/secrets")) or []
    text = table(("SECRET",), [(each["name"],) for each in found]) if found else "No secret."
    here.show([{"name": each["name"]} for each in found], text)


@secret.command("delete")
@click.argument("name")
@click.argument("key")
@with_here
def delete(here: Here, name: str, key: str) -> None:
    """Take the secret KEY from worker NAME."""
    with here.client() as client:
        path = client.script(name, f"/secrets/{quote(key, safe='')}")
        client.call("DELETE", path, params={"url_encoded": "true"})
    here.show({"worker": name, "deleted": key}, f"{name} no longer has the secret {key}.")
