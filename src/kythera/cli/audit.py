"""`kythera audit`: who changed what, newest last."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from kythera.cli.command import Here, table, with_here
from kythera.cli.durations import Duration
from kythera.cli.status_text import plain
from kythera.ground.clock import SystemClock, iso

LOGS = "/audit_logs"
CHANGE_MAX = 100
ID_SHOWN = 8
FIRST = ("serves", "secrets", "secrets with a new text", "version", "number")
"""What matters most stands where a line is not cut."""


@click.command()
@click.option("--worker", metavar="NAME", help="Only what was done to this worker.")
@click.option("--since", type=Duration(), metavar="TIME", help="Only the last 30m, 12h, 7d …")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@with_here
def audit(here: Here, worker: str | None, since: float | None, limit: int) -> None:
    """Show who changed what. When, from where, before and after; newest last."""
    asked: dict[str, Any] = {"per_page": limit, "page": 1, "direction": "desc"}
    if worker:
        asked["worker"] = worker
    if since is not None:
        asked["since"] = iso(SystemClock().now() - since)
    with here.client() as client:
        found = list(reversed(client.call("GET", LOGS, params=asked) or []))
    here.show(found, text(found))


def text(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the records as a person reads them. Pure."""
    rows = [
        (
            plain(each["when"])[:19].replace("T", " "),
            plain(each["actor"]["email"]),
            _from(each),
            plain(each["action"]["type"]),
            plain(each["resource"]["id"]),
            change(each),
        )
        for each in found
    ]
    head = ("WHEN (UTC)", "WHO", "FROM", "DID", "TO", "BEFORE -> AFTER")
    return table(head, rows) if rows else "Nothing was changed."


def _from(record: Mapping[str, Any]) -> str:
    machine = plain(record["metadata"]["machine"])
    client = plain(record["actor"]["ip"] or "-")
    return f"{client} at {machine}"


def change(record: Mapping[str, Any]) -> str:
    """Return what changed, on one line. Pure."""
    before, after = record["oldValueJson"], record["newValueJson"]
    keys = sorted({**before, **after}, key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST))
    parts = [
        f"{key}: {brief(before[key])} -> {brief(after.get(key))}"
        if key in before
        else f"{key}: {brief(after[key])}"
        for key in keys
    ]
    if record["action"]["info"]:
        parts.append(f"({record['action']['info']})")
    line = plain("; ".join(parts)) or "-"
    return line if len(line) <= CHANGE_MAX else line[: CHANGE_MAX - 1] + "…"


def brief(fact: Any) -> str:
    """Return a fact as briefly as it can be told apart. Pure."""
    if fact is None or fact in ("", [], {}):
        return "-"
    match fact:
        case dict():
            return ", ".join(f"{brief(key)} {brief(each)}" for key, each in fact.items())
        case list():
            return ", ".join(brief(each) for each in fact)
        case float() if fact.is_integer():
            return str(int(fact))
    text = str(fact)
    is_uuid = len(text) == 36 and text.count("-") == 4
    return text[:ID_SHOWN] if is_uuid else text
