"""What all commands share: `--state`, `--json`, how results and failures are shown.

A command is a function that takes a `Here` first. Text goes to stdout for a person; with `--json`
stdout carries exactly one JSON document (streams: one for each line), failures one on stderr.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, SetupError
from kythera.model.platform import Platform
from kythera.sim.one_host.plan import FLEET_FILE

if TYPE_CHECKING:
    from kythera.cli.client import Client

EXIT_CODES = {
    0: "done",
    1: "failed; the message says what to do",
    2: "the command was typed wrong",
    3: "no platform answers for this --state",
    130: "interrupted",
}


class NotRunning(KytheraError):
    """The platform of this `--state` does not answer (exit code 3)."""


class Interrupted(Exception):
    """Ctrl-C in a command that had nothing to put right."""


@dataclass(frozen=True)
class Here:
    """The platform a command speaks of, and how it speaks."""

    layout: Layout
    json: bool

    def client(self) -> "Client":
        """Return a client of this platform's API."""
        from kythera.cli.client import connect

        return connect(self.layout)

    def show(self, document: Any, text: str) -> None:
        """Print a result: the document with `--json`, else the text."""
        click.echo(json.dumps(document) if self.json else text)

    def note(self, text: str) -> None:
        """Tell a person what is going on; silent with `--json`."""
        if not self.json:
            click.echo(text)


def state_default() -> Path:
    """Return the state folder used without `--state`: $KYTHERA_STATE, else the one that `make up`
    made in this clone, else one below the home folder."""
    named = os.environ.get("KYTHERA_STATE")
    if named:
        return Path(named)
    clone = Path(__file__).resolve().parents[3] / ".kythera"
    if (clone / "platform.json").is_file():
        return clone
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "kythera"


def fleet_default() -> Path:
    """Return the folder of `kythera fleet` without `--state`."""
    named = os.environ.get("KYTHERA_FLEET")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(named) if named else Path(base) / "kythera-fleet"


def layout_at(state: Path) -> Layout:
    """Return the platform of a state folder; of a whole fleet's folder, its first living machine.

    Raises NotRunning when that fleet has none."""
    if not (state / FLEET_FILE).is_file():
        return Layout(state)
    from kythera.sim.one_host.living import first_living

    machine = first_living(state)
    if machine is None:
        raise NotRunning(
            f"no machine of the fleet in {state} runs.",
            remedy=f"Start it: kythera fleet up --state {state}",
        )
    return Layout(machine)


STATE = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=state_default,
    metavar="DIR",
    help="State folder of the platform  [default: $KYTHERA_STATE, else what `make up` made, "
    "else ~/.local/state/kythera].",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def with_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click function `--state` and `--json`, and call it with a `Here` first.

    The state folder may be a whole fleet's: then a living machine of it is asked."""

    @functools.wraps(function)
    def run(state: Path, as_json: bool, **rest: Any) -> Any:
        return function(Here(layout_at(state), as_json), **rest)

    return STATE(JSON(run))


def platform_of(layout: Layout) -> Platform:
    """Return the settings of the platform in a state folder. Raises NotRunning if there is none."""
    try:
        return layout.read_platform()
    except SetupError as error:
        raise NotRunning(error.message, remedy=error.remedy) from None


def tell_failure(error: KytheraError, *, as_json: bool) -> int:
    """Print an expected failure with its remedy; return the exit code."""
    code = getattr(error, "code", None)
    if as_json:
        document: dict[str, Any] = {"message": error.message, "remedy": error.remedy}
        if code is not None:
            document["code"] = code
        click.echo(json.dumps({"error": document}), err=True)
    else:
        suffix = f" [code: {code}]" if code is not None else ""
        click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
        click.echo(f"{error.message}{suffix}", err=True)
        if error.remedy:
            click.echo(f"  -> {error.remedy}", err=True)
    return 3 if isinstance(error, NotRunning) else 1


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned columns below a head."""
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
