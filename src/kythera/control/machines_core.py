"""Which machines hold the log, in the API: shown, and changed by a wish that the machines fulfil.

Promises: a wish is written as one record and answered at once; what becomes of it is told as long
as it takes. Refuses: a number of machines that could not agree (1, 3 and 5 can), machines that the
fleet does not have, a set of which none holds the log now.
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.answers import ask
from kythera.control.bodies import object_body
from kythera.control.envelope import answer, success
from kythera.control.machines import BAD_CHANGE, machine_named
from kythera.control.services import Services, services_of
from kythera.control.store import put
from kythera.distribute import membership
from kythera.distribute.cores import core_of
from kythera.distribute.moving import CannotMove, wished
from kythera.distribute.promotion import Progress, read_progress
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.records import Core

PROGRESS_BYTES_MAX = 64 * 1024
PROGRESS_MS = 1_000
NAMES_MAX = 100


def core_now(services: Services) -> Core:
    """Return who holds the log. Raises StoreUnavailable while this machine does not know."""
    layout = services.fleet.layout
    known = membership.read(layout) if layout is not None else None
    found = core_of(services.store.catalog(), known, services.platform.machine)
    if found is None:
        raise StoreUnavailable("This machine does not know yet who holds the log.")
    return found


async def view(services: Services, core: Core) -> dict[str, Any]:
    """Return who holds the log and, while it moves, how far that is."""
    shown: dict[str, Any] = {
        "machines": list(core.machines),
        "epoch": core.epoch,
        "wanted": list(core.wanted),
        "moving": bool(core.wanted),
    }
    if core.wanted:
        progress = await _progress(services, core)
        shown["step"] = progress.step if progress else "waits for its machines to begin"
        shown["copied_to"] = progress.copied_to if progress else 0
        shown["last_seq"] = progress.last_seq if progress else 0
    return shown


async def _progress(services: Services, core: Core) -> Progress | None:
    """Return how far a move is, from one of the machines that may drive it."""
    own = _own_progress(services)
    if own is not None and own.epoch == core.wanted_epoch:
        return own
    for name in sorted(set(core.machines) & set(core.wanted)):
        machine = services.store.catalog().machine(name)
        if machine is None or name == services.platform.machine:
            continue
        try:
            told = await ask(
                services.fleet.mesh,
                machine,
                "/core",
                Progress,
                bytes_max=PROGRESS_BYTES_MAX,
                within_ms=PROGRESS_MS,
            )
        except StoreUnavailable:
            continue
        if told.epoch == core.wanted_epoch:
            return told
    return None


def _own_progress(services: Services) -> Progress | None:
    layout = services.fleet.layout
    return read_progress(layout) if layout is not None else None


async def get_core(request: Request) -> Response:
    """GET kythera/core: which machines hold the log, and how far a move of it is."""
    services = services_of(request)
    return success(await view(services, core_now(services)))


async def patch_core(request: Request) -> Response:
    """PATCH kythera/core: `promote` and `demote` are lists of machines. Answered at once."""
    services = services_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    promote, demote = _names(document, "promote"), _names(document, "demote")
    if not promote and not demote:
        raise Refusal(BAD_CHANGE, "`promote` or `demote` must name a machine.")

    async def change() -> Core:
        before = core_now(services)
        after = _wish(services, before, promote, demote)
        if after != before:
            await services.store.write([put(after)])
            services.journal.say("log_move_wished", wanted=list(after.wanted))
        return after

    after = await services.store.settled("core.log", change)
    return success(await view(services, after))


def _wish(services: Services, core: Core, promote: Sequence[str], demote: Sequence[str]) -> Core:
    """Return the record that a change leads to. Raises Refusal."""
    for name in promote:
        machine_named(services, name)
    holders = {*(core.wanted or core.machines)}
    for name in demote:
        if name not in holders:
            raise Refusal(BAD_CHANGE, f"{name[:80]!r} does not hold the log.")
    try:
        return wished(core, sorted((holders | set(promote)) - set(demote)))
    except CannotMove as error:
        raise Refusal(BAD_CHANGE, error.message, status=409, remedy=error.remedy) from None


def _names(document: dict[str, Any], field: str) -> list[str]:
    names = document.get(field, [])
    good = isinstance(names, list) and len(names) <= NAMES_MAX
    if not good or not all(isinstance(name, str) for name in names):
        raise Refusal(BAD_CHANGE, f"`{field}` is a list of machines' names.")
    return list(names)


async def tell_progress(request: Request) -> Response:
    """GET /core (other machines ask): how far the move is that this machine drives."""
    progress = _own_progress(services_of(request))
    if progress is None:
        return answer({"epoch": 0, "step": ""}, 200)
    return answer(
        {
            "epoch": progress.epoch,
            "step": progress.step,
            "copied_to": progress.copied_to,
            "last_seq": progress.last_seq,
        },
        200,
    )


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/kythera/core"
    return [
        Route(root, get_core, methods=["GET"]),
        Route(root, patch_core, methods=["PATCH"]),
    ]


def peer_routes() -> list[Route]:
    """Return what other machines may ask."""
    return [Route("/core", tell_progress, methods=["GET"])]
