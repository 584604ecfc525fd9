"""`kythera cron`: which workers are called when, how it went, and to try one now."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import click

from kythera.cli.command import Here, table, with_here
from kythera.cli.status_text import plain
from kythera.model.errors import KytheraError

CRON = "/kythera/cron"


@click.group()
def cron() -> None:
    """See cron triggers, and try them."""


@cron.command("list")
@with_here
def list_crons(here: Here) -> None:
    """List all cron triggers: when each is due next (in UTC), and how its last call ended."""
    with here.client() as client:
        found = client.call("GET", CRON) or []
    here.show(found, text(found))


def text(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the triggers as a person reads them. Pure."""
    rows = [
        (
            plain(each["worker"]),
            plain(each["cron"]),
            _minute(each["next"]),
            each["runs"],
            each["failed"],
            _last(each["last"]),
        )
        for each in found
    ]
    head = ("WORKER", "CRON", "NEXT (UTC)", "CALLS", "FAILED", "LAST")
    return table(head, rows) if rows else "No cron trigger. Add `triggers.crons` and deploy."


def _minute(moment: object) -> str:
    return plain(moment or "never")[:16].replace("T", " ")


def _last(ends: list[Mapping[str, Any]]) -> str:
    if not ends:
        return "-"
    newest = ends[0]
    detail = f": {plain(newest['detail'])}" if newest["detail"] else ""
    when = _minute(newest["scheduled_on"])
    return f"{when} {plain(newest['outcome'])} in {newest['took_ms']} ms{detail}"


@cron.command("run")
@click.argument("worker")
@click.option("--cron", "expression", metavar="EXPR", help="As if this one were due.")
@with_here
def run(here: Here, worker: str, expression: str | None) -> None:
    """Call a worker's scheduled handler now; its first trigger's expression is what it is told."""
    asked = {"cron": expression} if expression else {}
    with here.client() as client:
        told = client.call("POST", f"{CRON}/{quote(worker, safe='')}", json=asked)
    outcome, detail = plain(told["outcome"]), plain(told["detail"])
    if outcome != "ok":
        raise KytheraError(
            f"the scheduled handler of {worker} ended with {outcome}"
            f" after {told['took_ms']} ms{': ' + detail if detail else ''}.",
            remedy=f"Watch it: kythera tail {worker}",
        )
    said = f"{worker}: {plain(told['cron'])} ended with ok in {told['took_ms']} ms."
    here.show(told, said)
