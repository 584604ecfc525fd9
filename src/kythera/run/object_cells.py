"""What an object cell's next step is: what is asked for and what runs in, one step out. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from kythera.run.cell import WorkerKey

NAME = "objects/"
"""What the names of object cells' processes and sockets begin with."""
_LISTS = ("namespaces", "workflows", "ways")
Step = Literal["start", "stop", "rest", "end"]


class Asked(Struct, frozen=True):
    """What an object cell is to run; it is known again by it (the keeper keeps it as tags)."""

    version: str
    workerd: str
    namespaces: tuple[str, ...]
    workflows: tuple[str, ...] = ()
    """Each with its class and settings, as text."""
    ways: tuple[str, ...] = ()
    """Where classes are that its code is bound to and that have changed their worker."""


def name_of(key: WorkerKey) -> str:
    """Return the one name of a worker's object cell: the keeper starts no second process by it."""
    return f"{NAME}{key[0]}/{key[1]}"


def key_of(name: str) -> WorkerKey | None:
    """Return whose object cell has this name; None: it is none."""
    account, _, worker = name.removeprefix(NAME).partition("/")
    return (account, worker) if name.startswith(NAME) else None


def next_step(asked: Asked | None, running: Mapping[str, Any] | None) -> Step:
    """Return what to do. What runs and is not what is asked for is stopped; only when nothing runs is
    anything started."""
    if running is None:
        return "end" if asked is None else "start"
    if asked is None:
        return "stop"
    return "rest" if _plain(running) == _plain(asdict(asked)) else "stop"


def _plain(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return tags as the keeper gives them back, those of an older agent too."""
    return {**tags, **{name: list(tags.get(name, ())) for name in _LISTS}}
