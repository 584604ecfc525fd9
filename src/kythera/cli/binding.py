"""`kythera binding`: which worker stands for a type of binding that the platform does not offer."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import click

from kythera.cli.command import Here, table, with_here
from kythera.cli.status_text import plain

BINDINGS = "/kythera/bindings"


@click.group()
def binding() -> None:
    """Let workers stand for what is not offered.

    A binding that cannot be had on your machines (ai, browser …) is one to a worker of yours then."""


@binding.command("map")
@click.argument("kind", metavar="TYPE")
@click.argument("worker")
@click.option("--entrypoint", metavar="NAME", help="A class the worker exports; else its default.")
@with_here
def map_binding(here: Here, kind: str, worker: str, entrypoint: str | None) -> None:
    """Let WORKER stand for all bindings of TYPE that are deployed from now on.

    What is called on such a binding is a method of the worker's entry point; what the configuration
    says of the binding is in its `ctx.props`."""
    asked = {"service": worker, **({"entrypoint": entrypoint} if entrypoint else {})}
    with here.client() as client:
        told = client.call("PUT", f"{BINDINGS}/{quote(kind, safe='')}", json=asked)
    here.show(told, f"{plain(told['type'])}: {_target(told)}. {_again(told)}")


@binding.command("unmap")
@click.argument("kind", metavar="TYPE")
@with_here
def unmap(here: Here, kind: str) -> None:
    """Let nothing stand for bindings of TYPE any more; what is deployed stays as it is."""
    with here.client() as client:
        told = client.call("DELETE", f"{BINDINGS}/{quote(kind, safe='')}")
    still = ", ".join(map(plain, told["workers"]))
    after = f" Still bound to {plain(told['service'])}: {still}." if still else ""
    here.show(told, f"{plain(told['type'])}: refused from now on.{after}")


@binding.command("list")
@with_here
def list_bindings(here: Here) -> None:
    """List the types of binding that a worker stands for, and who uses them."""
    with here.client() as client:
        found = client.call("GET", BINDINGS) or []
    here.show(found, text(found))


def text(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the map as a person reads it. Pure."""
    rows = [
        (plain(each["type"]), _target(each), ", ".join(map(plain, each["workers"])) or "-")
        for each in found
    ]
    none = "No worker stands for any binding. One can: kythera binding map TYPE WORKER"
    return table(("TYPE", "WORKER", "USED BY"), rows) if rows else none


def _target(told: Mapping[str, Any]) -> str:
    entrypoint = told["entrypoint"]
    return plain(told["service"]) + (f" ({plain(entrypoint)})" if entrypoint else "")


def _again(told: Mapping[str, Any]) -> str:
    workers = ", ".join(map(plain, told["workers"]))
    if not workers:
        return "Deploy what has such a binding."
    return f"Deploy again what has one already: {workers}."
