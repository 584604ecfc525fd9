"""`kythera key rotate | list`: the key that seals secrets, changed while everything runs."""

from typing import Any

import click

from kythera.cli.client import Client
from kythera.cli.command import Here, table, with_here
from kythera.ground.clock import wait_until
from kythera.model.errors import KytheraError, Refusal

KEYS = "/kythera/keys"
LOOK_S = 0.3


@click.group()
def key() -> None:
    """Change the key that seals secrets."""


@key.command("rotate")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", help="0: do not wait.")
@with_here
def rotate(here: Here, wait: float) -> None:
    """Seal all secrets with a new key.

    Every machine gets the new key first; the old one is dropped when nothing is sealed with it and
    no machine can still write such a thing. Nothing that is served notices. It goes on by itself,
    also when this command is cut short.
    """
    with here.client() as client:
        begun = client.call("POST", f"{KEYS}/rotate")
        wanted = begun["wanted"] or begun["active"]
        after = _watched(here, client, begun, wait) if wait else begun
    if not after["rotating"]:
        here.show(after, f"Secrets are sealed with the key {after['active']}; the old one is gone.")
        return
    if wait:
        waits = "; ".join(f"{each['machine']} {each['why']}" for each in after["waits_for"])
        raise KytheraError(
            f"The change to the key {wanted} is not over: {after['step']}"
            + (f" ({waits})." if waits else "."),
            remedy="It goes on by itself; the same command shows how far it is. A machine that "
            "will not come back: kythera machine remove NAME.",
        )
    here.show(after, f"Secrets will be sealed with the key {wanted}: kythera key list")


def _watched(here: Here, client: Client, begun: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """Look until it is over or the time is; return how it stands then."""
    newest, told = begun, ""

    def over() -> bool:
        nonlocal newest, told
        try:
            newest = client.call("GET", KEYS)
        except Refusal:
            return False  # the log is away for a moment
        line = _line(newest)
        if line != told:
            here.note(line)
            told = line
        return not newest["rotating"]

    wait_until(over, within_s=wait_s, every_s=LOOK_S)
    return newest


def _line(keys: dict[str, Any]) -> str:
    waits = ", ".join(each["machine"] for each in keys["waits_for"])
    return f"  {keys['step']}" + (f"; waits for {waits}" if waits else "")


@key.command("list")
@with_here
def list_keys(here: Here) -> None:
    """Show by their ids which keys seal secrets, and who holds them."""
    with here.client() as client:
        keys = client.call("GET", KEYS)
    ids = sorted({key for each in keys["machines"] for key in each["ids"]} | {keys["active"]})
    rows = [(each, _role(keys, each), _versions(keys, each), _holders(keys, each)) for each in ids]
    text = table(("KEY", "STATE", "VERSIONS", "HELD BY"), rows)
    silent = [each["name"] for each in keys["machines"] if not each["answered"]]
    if silent:
        text += f"\nNo answer: {', '.join(silent)}."
    if keys["rotating"]:
        text += f"\n{_line(keys).strip()}"
    here.show(keys, text)


def _role(keys: dict[str, Any], key_id: str) -> str:
    if key_id == keys["active"]:
        return "seals"
    if key_id == keys["wanted"]:
        return "next"
    return "until all is resealed" if key_id in keys["retiring"] else "not used"


def _versions(keys: dict[str, Any], key_id: str) -> int:
    return int(keys["versions_sealed"].get(key_id, 0))


def _holders(keys: dict[str, Any], key_id: str) -> str:
    return ", ".join(each["name"] for each in keys["machines"] if key_id in each["ids"]) or "-"
