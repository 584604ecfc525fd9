"""`kythera fleet …`: a whole fleet on this one computer, and faults for it."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kythera.cli.command import Here, fleet_default
from kythera.ground.layout import Layout
from kythera.sim.one_host.control import send_order
from kythera.sim.one_host.fleet import shown_text
from kythera.sim.one_host.orders import Order, parse_delay_ms

FOLDER = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The fleet's folder  [default: $KYTHERA_FLEET, else ~/.local/state/kythera-fleet].",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def with_fleet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--state` and `--json`, here or before it, and call it with a `Here` first."""

    @functools.wraps(function)
    def run(state: Path | None, as_json: bool, **rest: Any) -> Any:
        context = click.get_current_context()
        folder = state or (context.obj or {}).get("state") or fleet_default()
        as_json = as_json or bool((context.obj or {}).get("json"))
        return function(Here(Layout(Path(folder).absolute()), as_json), **rest)

    return FOLDER(AS_JSON(run))


@click.group()
@FOLDER
@AS_JSON
@click.pass_context
def fleet(context: click.Context, state: Path | None, as_json: bool) -> None:
    """Run a whole fleet on this computer, and trouble it.

    Links can be cut or slow, machines can die, hang and come back.
    """
    context.obj = {"state": state, "json": as_json}


@fleet.command()
@click.option("--machines", type=int, default=3, show_default=True)
@click.option("--sites", type=int, default=1, show_default=True)
@click.option("--cores", type=int, help="How many hold the log: 1, 3 or 5  [3 if there are 3].")
@click.option("--http", type=int, default=8080, show_default=True, help="Port; 0 picks free ones.")
@click.option("--api", type=int, default=8787, show_default=True, help="Port; 0 picks free ones.")
@click.option("--up", "more", multiple=True, metavar="OPTION", help="For every `kythera up`.")
@with_fleet
def up(here: Here, **chosen: Any) -> int:
    """Start a fleet: every machine with processes, files and an address of its own.

    With --json the first line on stdout is the event `ready`; Ctrl-C stops all machines. An
    option for each machine is given as --up: --up=--limit --up=idle_stop_s=5.
    """
    from kythera.sim.one_host.run import Wanted, run

    return run(here.layout, Wanted(json=here.json, program=sys.argv[0], **chosen))


def _tell(here: Here, **order: Any) -> None:
    shown = send_order(here.layout.state, Order(**order))
    here.show(shown, shown_text(shown))


@fleet.command()
@click.argument("a")
@click.argument("b")
@click.option("--one-way", is_flag=True, help="What A says is lost; what B says still comes.")
@click.option("--silent", is_flag=True, help="A black hole: connections stand, nothing passes.")
@with_fleet
def cut(here: Here, a: str, b: str, one_way: bool, silent: bool) -> None:
    """Cut the link between A and B: machines, sites, or `all`."""
    _tell(here, do="cut", a=a, b=b, one_way=one_way, silent=silent)


@fleet.command()
@click.argument("a", default="")
@click.argument("b", default="")
@with_fleet
def heal(here: Here, a: str, b: str) -> None:
    """Make the link between A and B healthy again; without names, every link."""
    _tell(here, do="heal", a=a, b=b)


@fleet.command()
@click.argument("a")
@click.argument("b")
@click.argument("delay")
@click.option("--one-way", is_flag=True, help="What A says is late; what B says is not.")
@click.option("--loss", type=click.FloatRange(0, 1), default=0.0, help="Share of pieces, 0 to 1.")
@with_fleet
def slow(here: Here, a: str, b: str, delay: str, one_way: bool, loss: float) -> None:
    """Let everything between A and B come late by DELAY each way, for example 300ms."""
    _tell(here, do="slow", a=a, b=b, delay_ms=parse_delay_ms(delay), one_way=one_way, loss=loss)


@fleet.command()
@click.argument("machine")
@with_fleet
def kill(here: Here, machine: str) -> None:
    """End a machine as a loss of power would: kill -9 of its keeper, all else goes with it."""
    _tell(here, do="kill", a=machine)


@fleet.command()
@click.argument("machine")
@with_fleet
def hang(here: Here, machine: str) -> None:
    """Stop every process of a machine where it is (SIGSTOP)."""
    _tell(here, do="hang", a=machine)


@fleet.command()
@click.argument("machine")
@with_fleet
def stop(here: Here, machine: str) -> None:
    """End a machine in order, as Ctrl-C would."""
    _tell(here, do="stop", a=machine)


@fleet.command()
@click.argument("machine")
@with_fleet
def revive(here: Here, machine: str) -> None:
    """Let a hung machine go on; start one that is down. Without its folder, it joins anew."""
    _tell(here, do="revive", a=machine)


@fleet.command()
@with_fleet
def show(here: Here) -> None:
    """Show which machines live and which links are not healthy."""
    _tell(here, do="show")
