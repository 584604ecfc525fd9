"""`kythera doctor`: is this machine fit, and is the platform well? Looks, tells, mends nothing."""

from dataclasses import asdict

import anyio
import click

from kythera.cli import checks
from kythera.cli.checks import Verdict
from kythera.cli.client import connect
from kythera.cli.command import Here, with_here
from kythera.cli.status import is_running
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@with_here
def doctor(here: Here) -> int:
    """Check this machine and the running platform. Exit code 1 when something does not work."""
    found = anyio.run(examine, here.layout)
    here.show([asdict(verdict) for verdict in found], report(found))
    return 1 if any(verdict.level == "fail" for verdict in found) else 0


async def examine(layout: Layout) -> list[Verdict]:
    """Return a verdict on everything: the host first, then the platform if there is one."""
    host = [
        checks.python(),
        await checks.node(),
        await checks.workerd(),
        await checks.haproxy(),
        await checks.nats_server(),
        checks.descriptors(),
        checks.disk(layout),
        checks.clock(),
        checks.certificates(),
        checks.isolation(),
    ]
    return host + await examine_platform(layout)


async def examine_platform(layout: Layout) -> list[Verdict]:
    """Return verdicts on the platform in `layout`: its doors when it is down, else its parts."""
    try:
        platform = layout.read_platform()
    except KytheraError as error:
        return [Verdict("platform", "warn", error.message, error.remedy)]
    found = [checks.paths(layout), checks.private_files(layout)]
    if not is_running(layout):
        down = Verdict(
            "platform", "warn", "it is down.", f"Start it: kythera up --state {layout.state}"
        )
        return [*found, down, *checks.ports_free(platform)]
    with connect(layout) as client:
        found.append(checks.api(platform, client))
    return [*found, checks.front(platform), await checks.log(layout), checks.cells(layout)]


def report(found: list[Verdict]) -> str:
    """Return the verdicts as lines; what is not `ok` says what to do. Pure."""
    width = max(len(verdict.name) for verdict in found)
    lines = []
    for verdict in found:
        level = click.style(f"{verdict.level:<4}", fg=COLOURS[verdict.level])
        lines.append(f"{level}  {verdict.name:<{width}}  {verdict.text}")
        if verdict.remedy and verdict.level != "ok":
            lines.append(f"{'':<{width + 8}}-> {verdict.remedy}")
    return "\n".join(lines)
