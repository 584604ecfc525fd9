"""The keys for secrets in the API: which one seals, who holds it, how far a rotation is, and the wish
for another one. Ids are shown, never keys.
"""

from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.envelope import success
from kythera.control.key_answers import ask_all
from kythera.control.key_rotation import rotate, sealing_now
from kythera.control.services import Services, services_of
from kythera.deploy.resealing import Held, next_step, sealed_of
from kythera.distribute.admission import core_peers
from kythera.model.envelope import keys_used
from kythera.model.errors import StoreUnavailable
from kythera.model.records import Sealing

STEPS = {
    "rest": "done",
    "activate": "every machine gets the new key",
    "reseal": "secrets are sealed with the new key",
    "drop": "every machine finishes what it began with the old key",
}


async def view(services: Services) -> dict[str, Any]:
    """Return the keys and how far a change of them is, as this machine and those it asks see it."""
    keyring = services.keyring
    if keyring is None:
        raise StoreUnavailable("This machine holds no keys for secrets.")
    catalog = services.store.catalog()
    sealing = sealing_now(catalog, keyring)
    machines = await ask_all(services, keyring)
    used = Counter(key for version in sealed_of(catalog) for key in keys_used(version))
    others = sum(1 for v in sealed_of(catalog) if keys_used(v) - {sealing.active})
    core = {peer.name for peer in core_peers(catalog)}
    step = _step(sealing, machines, core, others, services.me)
    return {
        "active": sealing.active,
        "wanted": sealing.wanted,
        "retiring": list(sealing.retiring),
        "rotating": bool(sealing.wanted or sealing.retiring),
        "step": step[0],
        "waits_for": step[1],
        "versions_sealed": dict(used),
        "machines": [_machine(name, held) for name, held in sorted(machines.items())],
    }


def _step(
    sealing: Sealing, machines: dict[str, Held], core: set[str], others: int, me: str
) -> tuple[str, list[dict[str, str]]]:
    """Return how far it is, in words, and whom it waits for."""
    found = next_step(
        sealing,
        machines,
        me=me,
        core=core,
        wanted_for_s=0.0,
        absent_s=1.0,
        others_sealed=0 if sealing.wanted else others,
        clean_seq=0,  # who is some records behind will not be for long
    )
    kind = found.kind
    if kind == "wait":
        kind = "activate" if sealing.wanted else "drop"
    waits = [{"machine": name, "why": why} for name, why in sorted(found.waits_for.items())]
    return STEPS[kind], waits


def _machine(name: str, held: Held) -> dict[str, Any]:
    return {
        "name": name,
        "answered": held.answered,
        "ids": sorted(held.ids),
        "given": held.given,
    }


async def get_keys(request: Request) -> Response:
    """GET kythera/keys."""
    return success(await view(services_of(request)))


async def post_rotation(request: Request) -> Response:
    """POST kythera/keys/rotate: have all secrets sealed with another key. Answered at once."""
    services = services_of(request)
    await rotate(services)
    return success(await view(services))


def routes(account: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{account}/kythera/keys"
    return [
        Route(root, get_keys, methods=["GET"]),
        Route(f"{root}/rotate", post_rotation, methods=["POST"]),
    ]
