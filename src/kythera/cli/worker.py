"""`kythera worker list` and `kythera worker delete`."""

from urllib.parse import quote

import click

from kythera.cli.client import Client, worker_urls
from kythera.cli.command import Here, table, with_here
from kythera.model.errors import KytheraError


@click.group()
def worker() -> None:
    """List and delete workers."""


@worker.command("list")
@with_here
def list_workers(here: Here) -> None:
    """List this platform's workers."""
    with here.client() as client:
        found = [_row(client, each) for each in client.call("GET", "/workers/scripts") or []]
    text = "No worker yet. Deploy one: kythera deploy [PATH]"
    if found:
        rows = [(each["name"], each["modified_on"] or "-", each["url"]) for each in found]
        text = table(("WORKER", "MODIFIED", "ADDRESS"), rows)
    here.show(found, text)


def _row(client: Client, script: dict[str, str]) -> dict[str, str]:
    name = script["id"]
    return {
        "name": name,
        "created_on": script.get("created_on", ""),
        "modified_on": script.get("modified_on", ""),
        "url": worker_urls(client.platform, f"{name}.{client.platform.domain}")[0],
    }


@worker.command("delete")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@with_here
def delete(here: Here, name: str, yes: bool) -> None:
    """Delete a worker with all its versions, routes and secrets."""
    with here.client() as client:
        client.call("GET", f"/workers/services/{quote(name, safe='')}")
        if not yes:
            if here.json:
                raise KytheraError("--json cannot ask.", remedy="Add --yes.")
            click.confirm(f"Delete {name}, its versions, routes and secrets?", abort=True)
        client.call("DELETE", f"/workers/services/{quote(name, safe='')}", params={"force": "true"})
    here.show({"deleted": name}, f"Deleted {name}.")
