"""`kythera machine list | drain | undrain | remove | label`: the fleet's machines, one by one."""

from typing import Any
from urllib.parse import quote

import click

from kythera.cli.client import Client
from kythera.cli.command import Here, table, with_here
from kythera.ground.clock import wait_until
from kythera.model.errors import KytheraError

MACHINES = "/kythera/machines"
LOOK_S = 0.5
EMPTY_LOOKS = 4
"""In a row, until a machine counts as drained: an idle one has no cells before it has even heard."""
STATUS_S = 15.0


@click.group()
def machine() -> None:
    """List, drain, promote and remove machines."""


def path_of(name: str) -> str:
    """Return the path of a machine's resource."""
    return f"{MACHINES}/{quote(name, safe='')}"


@machine.command("list")
@with_here
def list_machines(here: Here) -> None:
    """List the fleet's machines, whichever of them is asked."""
    with here.client() as client:
        found = client.call("GET", MACHINES) or []
    rows = [
        (
            f"{each['name']} *" if each["here"] else each["name"],
            each["site"],
            "/".join(filter(None, (each["world"], each["region"]))) or "-",
            "core" if each["core"] else "-",
            each["state"],
            each["mesh"],
            " ".join(f"{key}={text}" for key, text in sorted(each["labels"].items())) or "-",
        )
        for each in found
    ]
    head = ("MACHINE", "SITE", "REGION", "LOG", "STATE", "MESH", "LABELS")
    here.show(found, table(head, rows))


@machine.command("drain")
@click.argument("name")
@click.option("--wait", default=120.0, show_default=True, metavar="SECONDS", help="0: do not wait.")
@with_here
def drain(here: Here, name: str, wait: float) -> None:
    """Move machine NAME's traffic to others; no request fails. Waits until it serves nothing."""
    with here.client() as client:
        client.call("PATCH", path_of(name), json={"state": "draining"})
        here.note(f"{name} hands its requests to others.")
        drained = _watch(here, client, name, wait)
    if wait and not drained:
        raise KytheraError(
            f"{name} still serves after {wait:g} s.",
            remedy=f"It goes on draining; see `kythera status`, or: kythera machine undrain {name}",
        )
    done = f"{name} serves nothing any more: it may be stopped." if drained else f"{name} drains."
    here.show({"machine": name, "state": "draining", "drained": drained}, done)


def _watch(here: Here, client: Client, name: str, wait_s: float) -> bool:
    """Look at the fleet's status until the machine has drained; tell whether it has."""
    told, empty = "", 0

    def drained() -> bool:
        nonlocal told, empty
        left = serving(client.call("GET", "/kythera/status", timeout=STATUS_S), name)
        word = f"{len(left)} cells still run" if left is not None else "it does not answer"
        if word != told and left != []:
            here.note(f"  {name}: {word}")
            told = word
        empty = empty + 1 if left == [] else 0
        return empty >= EMPTY_LOOKS

    return wait_s > 0 and wait_until(drained, within_s=wait_s, every_s=LOOK_S)


def serving(status: dict[str, Any], name: str) -> list[str] | None:
    """Return which workers' cells a machine still runs; None while it does not tell. Pure."""
    entry = next((each for each in status["machines"] if each["name"] == name), None)
    if entry is None or entry["state"] == "unreachable":
        return None
    if entry["state"] == "drained":
        return []
    return [
        cell["worker"] for cell in status["cells"] if cell.get("machine") == name and cell["pids"]
    ]


@machine.command("undrain")
@click.argument("name")
@with_here
def undrain(here: Here, name: str) -> None:
    """Let machine NAME serve again."""
    with here.client() as client:
        client.call("PATCH", path_of(name), json={"state": "active"})
    here.show({"machine": name, "state": "active"}, f"{name} serves again.")


@machine.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE...")
@with_here
def label(here: Here, name: str, labels: tuple[str, ...]) -> None:
    """Give machine NAME labels; KEY= takes one away."""
    changes: dict[str, str | None] = {}
    for each in labels:
        key, equals, text = each.partition("=")
        if not equals:
            raise click.UsageError(f"{each}: write it as KEY=VALUE, or KEY= to take it away.")
        changes[key] = text or None
    with here.client() as client:
        after = client.call("PATCH", path_of(name), json={"labels": changes})
    said = " ".join(f"{key}={text}" for key, text in sorted(after["labels"].items()))
    here.show(after, f"{name}: {said or 'no label'}")


@machine.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also the machine that is asked.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@with_here
def remove(here: Here, name: str, force: bool, yes: bool) -> None:
    """Take machine NAME out of the fleet: the others turn it away within seconds.

    Drain it first, unless it is lost. It may join again with a new token.
    """
    with here.client() as client:
        client.call("GET", path_of(name))
        if not yes:
            if here.json:
                raise KytheraError("--json cannot ask.", remedy="Add --yes.")
            click.confirm(f"Remove {name} from the fleet?", abort=True)
        client.call("DELETE", path_of(name), params={"force": "true"} if force else {})
    here.show({"removed": name}, f"{name} is no machine of the fleet any more.")
