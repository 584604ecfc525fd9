"""`kythera machine promote | demote`: which machines hold the log. Waits until they do."""

from typing import Any

import click

from kythera.cli.client import Client
from kythera.cli.command import Here, with_here
from kythera.cli.machine import machine
from kythera.ground.clock import wait_until
from kythera.model.errors import KytheraError, Refusal

CORE = "/kythera/core"
LOOK_S = 0.3
BAR_CELLS = 20
WAIT = click.option(
    "--wait", default=300.0, show_default=True, metavar="SECONDS", help="0: do not wait."
)


@machine.command("promote")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--instead-of", "without", multiple=True, metavar="NAME", help="A machine that shall not."
)
@WAIT
@with_here
def promote(here: Here, names: tuple[str, ...], without: tuple[str, ...], wait: float) -> None:
    """Let machines NAME... hold the log too: 3 survive the loss of one, 5 the loss of two.

    Nothing that is served notices; deploys wait some seconds. To replace a machine that is lost:
    `promote NEW --instead-of LOST`.
    """
    _change(here, {"promote": list(names), "demote": list(without)}, wait)


@machine.command("demote")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@WAIT
@with_here
def demote(here: Here, names: tuple[str, ...], wait: float) -> None:
    """Let machines NAME... hold the log no more; 1, 3 or 5 machines must be left that do."""
    _change(here, {"demote": list(names)}, wait)


def _change(here: Here, change: dict[str, list[str]], wait_s: float) -> None:
    with here.client() as client:
        begun = client.call("PATCH", CORE, json=change)
        after = _watched(here, client, begun, wait_s) if begun["moving"] and wait_s else begun
    if not after["moving"]:
        here.show(after, f"The log is held by {', '.join(after['machines'])}.")
        return
    if wait_s:
        raise KytheraError(
            f"The log is still moving to {', '.join(after['wanted'])}: {after['step']}.",
            remedy="It goes on by itself. See `kythera status`; the same command shows it again.",
        )
    here.show(after, f"The log moves to {', '.join(after['wanted'])}.")


def _watched(here: Here, client: Client, begun: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """Look until the log has moved or the time is over; return how it stands then."""
    newest, told = begun, ""

    def moved() -> bool:
        nonlocal newest, told
        try:
            newest = client.call("GET", CORE)
        except Refusal:
            return False  # this machine changes over to the new servers just now
        line = progress_line(newest)
        if line != told:
            here.note(line)
            told = line
        return not newest["moving"]

    wait_until(moved, within_s=wait_s, every_s=LOOK_S)
    return newest


def progress_line(core: dict[str, Any]) -> str:
    """Return how far a move is, for a person. Pure."""
    if not core["moving"]:
        return f"  [{'#' * BAR_CELLS}] done"
    share = core["copied_to"] / core["last_seq"] if core.get("last_seq") else 0.0
    bar = "#" * round(share * BAR_CELLS)
    return f"  [{bar:.<{BAR_CELLS}}] {core.get('step', '')}"
