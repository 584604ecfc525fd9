"""Who is calling, for as long as a call lasts: what they may, and what the audit says of them.

The gate (`access`, `peer_gate`) finds out who it is, the table (`scopes`) what the address needs; both
meet here. Work that nobody asked for (sweeping, pruning) has no caller.
Promises: a refusal names the scope that is missing and the command that makes a token which has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec
from msgspec import Struct

from kythera.control.scopes import ADMIN, OPEN, PLATFORM, WORKER, Need, holds
from kythera.model.errors import Refusal

FORBIDDEN = 10000
ROOT_NAME = "root"
"""Who holds the token in a state folder."""


class Forbidden(Refusal):
    """The token is right, and not for this."""


class Caller(Struct, frozen=True, kw_only=True):
    """One who calls, and what for. Machines hand it on to each other as JSON."""

    name: str
    """A token's, `root`, or `machine <name>`."""
    token: str = ""
    """Id of the API token; empty: another proof."""
    scopes: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    """Empty: all."""
    client: str = ""
    agent: str = ""
    machine: str = ""
    """Which machine was asked."""
    does: str = ""
    worker: str = ""

    def sees(self, worker: str) -> bool:
        """Tell whether a worker is one of those that this caller may know of."""
        return not self.workers or worker in self.workers


calling: ContextVar[Caller | None] = ContextVar("calling", default=None)


def refuse(caller: Caller, need: Need, worker: str) -> None:
    """Refuse what a caller may not. Pure. Raises Forbidden."""
    if need.reach == OPEN:
        return
    if need.reach == WORKER and not caller.sees(worker):
        raise _refusal(caller, f"is not for Worker {worker[:80]!r}", need.scopes[0], worker)
    if need.reach == PLATFORM and caller.workers:
        raise _refusal(caller, "is for some workers only", need.scopes[0], "")
    if not holds(caller.scopes, need.scopes):
        lacking = " or ".join(f'"{scope}"' for scope in need.scopes)
        raise _refusal(caller, f"lacks the scope {lacking}", need.scopes[0], worker)


def _refusal(caller: Caller, lacking: str, scope: str, worker: str) -> Forbidden:
    about = f" --worker {worker[:80]}" if worker and scope != ADMIN else ""
    return Forbidden(
        FORBIDDEN,
        f'Authentication error: the API token "{caller.name}" {lacking}.',
        status=403,
        remedy=f"Make one that may: kythera api-token create --name NAME --scope {scope}{about}",
    )


def refuse_beyond(scopes: tuple[str, ...], worker: str) -> None:
    """Refuse the present caller unless it has each of these scopes for a worker."""
    caller = calling.get()
    for scope in scopes if caller is not None else ():
        assert caller is not None, "looked at above"
        refuse(caller, Need((scope,)), worker)


def sees(worker: str) -> bool:
    """Tell whether the present caller may know of a worker."""
    caller = calling.get()
    return caller is None or caller.sees(worker)


@contextmanager
def called_by(caller: Caller | None) -> Iterator[None]:
    """Let what happens inside be done by this caller; None: by the platform itself."""
    before = calling.set(caller)
    try:
        yield
    finally:
        calling.reset(before)


@contextmanager
def doing(does: str, worker: str) -> Iterator[None]:
    """Let what happens inside be done for this purpose."""
    caller = calling.get()
    assert caller is not None, "the gate has found out who calls"
    with called_by(msgspec.structs.replace(caller, does=does, worker=worker)):
        yield
