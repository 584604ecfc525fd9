"""`kythera workerd use`: another workerd for this machine's cells, rolled while visitors are served."""

from pathlib import Path
from typing import Any

import anyio
import click

from kythera.cli.command import Here, NotRunning, platform_of, with_here
from kythera.ground.clock import wait_until
from kythera.model.errors import KytheraError, SetupError

LOOK_S = 0.3


@click.group()
def workerd() -> None:
    """Choose the workerd that this machine's cells run."""


@workerd.command("use")
@click.argument("path", metavar="PATH|default")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", help="0: do not wait.")
@with_here
def use(here: Here, path: str, wait: float) -> None:
    """Let this machine's cells run the workerd at PATH, or the packaged one (`default`).

    It is tried first; then one cell proves it, then all others follow one at a time. No request
    fails. What does not run changes nothing.
    """
    from kythera.run.pinned import choose, chosen, mark_of

    platform_of(here.layout)
    program = None if path == "default" else Path(path)
    if program is not None:
        _refuse_broken(program)
    choose(here.layout, program)
    mark = mark_of(chosen(here.layout))
    if not wait:
        here.show({"path": path, "mark": mark}, "Chosen; `kythera status` shows how far it is.")
        return
    machine = _watched(here, mark, wait)
    here.show(machine, f"All cells run workerd {machine['workerd']}.")


def _refuse_broken(program: Path) -> None:
    """Raise SetupError for what is no workerd, before anything is written."""
    from kythera.run.workerd import workerd_version

    try:
        version = anyio.run(workerd_version, program)
    except OSError as error:
        raise SetupError(f"{program} does not run: {error.strerror}.") from None
    if not version:
        raise SetupError(
            f"{program} does not say what it is.",
            remedy="Name the workerd binary itself, for this machine's architecture.",
        )


def _is_used(machine: dict[str, Any], mark: str) -> bool:
    return not machine["workerd_change"] and bool(machine["workerd_mark"] == mark)


def _watched(here: Here, mark: str, wait_s: float) -> dict[str, Any]:
    """Look until all cells run it. Raises KytheraError when it is refused, or time is over."""
    from kythera.cli.status import read_status

    machine: dict[str, Any] = {}
    told = ""

    def over() -> bool:
        nonlocal machine, told
        try:
            machine = read_status(here.layout)["machines"][0]
        except NotRunning:
            return False  # the agent is being replaced
        change = machine["workerd_change"]
        if change != told and machine["workerd_wanted"] == mark:
            here.note(f"  {change}")
            told = change
        looked = machine["workerd_wanted"] == mark
        return looked and (change.startswith("refused") or _is_used(machine, mark))

    if not wait_until(over, within_s=wait_s, every_s=LOOK_S):
        raise KytheraError(
            f"It is not over: {told or 'the agent has not looked yet'}.",
            remedy="It goes on by itself: kythera status",
        )
    if machine["workerd_change"]:
        raise KytheraError(
            f"workerd: {machine['workerd_change']}",
            remedy="Choose another: kythera workerd use PATH, or `default`.",
        )
    return machine
