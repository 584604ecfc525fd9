"""Keys for secrets between machines: who holds which, and one handed to a machine that lacks it.

Promises: only a machine of the fleet, known by its certificate and its record, is given a key; a
key that arrives is the one that was asked for, by its id. What is logged and shown is ids.
"""

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.peer_answers import member_of, reply, told
from kythera.control.services import Services, services_of
from kythera.deploy.keyring import Keyring
from kythera.deploy.resealing import Held
from kythera.distribute.admission import CODE
from kythera.distribute.invitation import KeyAnswer, KeysHeld
from kythera.distribute.join import read_answer
from kythera.ground.key_files import as_key, as_line
from kythera.model.envelope import key_id
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable
from kythera.model.records import Machine

NOT_FOUND = (404, 405)
SILENT = Held(answered=False)


def own_keys(services: Services, keyring: Keyring) -> KeysHeld:
    """Return which keys this machine holds."""
    return KeysHeld(
        ids=keyring.ids(),
        settled_seq=services.store.settled_seq(),
        given=keyring.files.given is not None,
    )


def _keyring_of(services: Services) -> Keyring:
    if services.keyring is None:
        raise StoreUnavailable("This machine holds no keys for secrets.")
    return services.keyring


@told
async def held(request: Request) -> Response:
    """GET /keys: which keys this machine holds, and up to where its writers have read."""
    services = services_of(request)
    member_of(request)
    keyring = _keyring_of(services)
    return reply(own_keys(services, keyring))


@told
async def one(request: Request) -> Response:
    """GET /keys/{key}: a key, for a machine of this fleet."""
    services = services_of(request)
    name = member_of(request)
    wanted = request.path_params["key"]
    for key in _keyring_of(services).files.read():
        if key_id(key) == wanted:
            services.journal.say("key_shared", key=wanted, machine=name)
            return reply(KeyAnswer(key=as_line(key)))
    raise Refusal(CODE, f"{services.me!r} does not hold the key {wanted[:16]!r}.", status=404)


async def ask_all(services: Services, keyring: Keyring) -> dict[str, Held]:
    """Ask every machine of the records which keys it holds, all at once."""
    own = own_keys(services, keyring)
    found: dict[str, Held] = {services.me: _as_held(own)}

    async def look(machine: Machine) -> None:
        found[machine.name] = await _ask(services, machine)

    async with anyio.create_task_group() as tasks:
        for machine in services.store.catalog().machines():
            if machine.name != services.me:
                tasks.start_soon(look, machine)
    return found


def _as_held(told: KeysHeld) -> Held:
    return Held(ids=frozenset(told.ids), settled_seq=told.settled_seq, given=told.given)


async def _ask(services: Services, machine: Machine) -> Held:
    with anyio.move_on_after(services.platform.limits.peer_answer_ms / 1000):
        try:
            response = await services.fleet.mesh.request(machine.name, machine.mesh, "GET", "/keys")
            if response.status_code in NOT_FOUND:
                return Held(able=False)
            return _as_held(read_answer(response, KeysHeld))
        except Refusal:
            return Held()  # its copy does not know this machine yet: it is there
        except KytheraError:
            return SILENT
    return SILENT


async def ask_for_key(services: Services, machine: Machine, key: str) -> bytes:
    """Fetch a key from a machine. Raises KytheraError when it does not give it."""
    with anyio.move_on_after(services.platform.limits.peer_answer_ms / 1000):
        response = await services.fleet.mesh.request(
            machine.name, machine.mesh, "GET", f"/keys/{key}"
        )
        found = as_key(read_answer(response, KeyAnswer).key, f"that {machine.name!r} gave")
        if key_id(found) != key:
            raise KytheraError(f"{machine.name!r} gave another key than {key}.")
        return found
    raise StoreUnavailable(f"The machine {machine.name!r} did not answer in time.")


def peer_routes() -> list[Route]:
    """Return what other machines may ask."""
    return [
        Route("/keys", held, methods=["GET"]),
        Route("/keys/{key}", one, methods=["GET"]),
    ]
