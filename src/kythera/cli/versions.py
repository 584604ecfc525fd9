"""`kythera versions list` and `kythera rollback`."""

from typing import Any

import click

from kythera.cli.client import Client
from kythera.cli.command import Here, table, with_here
from kythera.cli.upload import MESSAGE, TAG
from kythera.model.errors import KytheraError

TRIGGER = "workers/triggered_by"


@click.group()
def versions() -> None:
    """List a worker's versions."""


@versions.command("list")
@click.argument("name")
@with_here
def list_versions(here: Here, name: str) -> None:
    """List the versions of worker NAME, newest first, and how much each serves."""
    with here.client() as client:
        rows = overview(_versions(client, name), _deployments(client, name))
    here.show(rows, _text(rows))


def overview(
    found: list[dict[str, Any]], deployments: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Join versions with the deployment that holds now. Pure."""
    held = deployments[0]["versions"] if deployments else []
    shares = {split["version_id"]: split["percentage"] for split in held}
    return [
        {
            "id": each["id"],
            "number": each.get("number"),
            "created_on": each["metadata"]["created_on"],
            "source": each["metadata"].get("source", ""),
            "triggered_by": each.get("annotations", {}).get(TRIGGER, ""),
            "message": each.get("annotations", {}).get(MESSAGE, ""),
            "tag": each.get("annotations", {}).get(TAG, ""),
            "percentage": shares.get(each["id"], 0),
        }
        for each in found
    ]


def _text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No version yet."
    cells = [
        (
            row["number"] or "-",
            row["id"],
            row["created_on"][:19].replace("T", " "),
            f"{row['percentage']:g} %" if row["percentage"] else "-",
            " ".join(filter(None, (row["tag"], row["message"]))) or row["triggered_by"] or "-",
        )
        for row in rows
    ]
    return table(("NUMBER", "VERSION", "CREATED (UTC)", "SERVES", "NOTE"), cells)


def _versions(client: Client, name: str) -> list[dict[str, Any]]:
    items = client.call("GET", client.script(name, "/versions"), params={"deployable": "true"})
    return list(items["items"])


def _deployments(client: Client, name: str) -> list[dict[str, Any]]:
    return list(client.call("GET", client.script(name, "/deployments"))["deployments"])


@click.command()
@click.argument("name")
@click.argument("version", required=False)
@click.option("--message", help="Why; kept with the deployment.")
@click.option("--yes", "-y", is_flag=True, help="Also when the secrets have changed since.")
@with_here
def rollback(here: Here, name: str, version: str | None, message: str | None, yes: bool) -> None:
    """Serve an earlier version again.

    Without VERSION: the newest earlier deployment that served one version alone. VERSION is an
    id, its beginning, or a number as `kythera versions list` shows it.
    """
    with here.client() as client:
        known, history = _versions(client, name), _deployments(client, name)
        target = find_version(known, version) if version else previous(history, name)
        client.call(
            "POST",
            client.script(name, "/deployments"),
            params={"force": "true"} if yes else {},
            json={
                "strategy": "percentage",
                "versions": [{"version_id": target, "percentage": 100}],
                "annotations": {MESSAGE: message or "Rollback", TRIGGER: "rollback"},
            },
        )
    here.show({"worker": name, "version_id": target}, f"{name} serves version {target} again.")


def previous(history: list[dict[str, Any]], name: str) -> str:
    """Return the version that served alone before the one that does now. Pure."""
    current = {split["version_id"] for split in history[0]["versions"]} if history else set()
    for deployment in history[1:]:
        splits = deployment["versions"]
        if len(splits) == 1 and splits[0]["version_id"] not in current:
            return str(splits[0]["version_id"])
    raise KytheraError(
        f"{name} has no earlier version to go back to.",
        remedy=f"See what there is: kythera versions list {name}",
    )


def find_version(known: list[dict[str, Any]], wanted: str) -> str:
    """Return the one version whose id, beginning of id, or number is `wanted`. Pure."""
    if wanted.isdecimal():
        numbered = [each["id"] for each in known if each.get("number") == int(wanted)]
        if numbered:
            return str(numbered[0])
    found = [each["id"] for each in known if each["id"].startswith(wanted)]
    if len(found) == 1:
        return str(found[0])
    raise KytheraError(
        f"{len(found) or 'no'} versions begin with {wanted!r}.",
        remedy="Name one as `kythera versions list` shows it.",
    )
