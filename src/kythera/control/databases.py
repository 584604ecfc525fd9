"""D1 databases: made, listed, asked, deleted.

What there is stands in records; what is in it is with the store (`run/js/databases.js`) of the machine
that made it, which is asked over the mesh. Promises: a name means one database; a deleted one's content
is gone when the answer says so, and its file where this machine kept it. Refuses: to ask for a database
whose machine is not of the fleet any more (7500, naming it).
"""

import re
from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body
from kythera.control.caller import calling
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.control.store_calls import Asked
from kythera.deploy.documents import as_list, as_object, as_text, shown
from kythera.ground.clock import iso
from kythera.model.errors import KytheraError, Refusal
from kythera.model.limits import MIB
from kythera.model.records import Resource

STORE = TYPE = "d1"
BAD_REQUEST, ABSENT, TOO_MANY, SQL_FAILED, EXISTS = 7400, 7404, 7406, 7500, 7502
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
QUERY_BYTES_MAX = 16 * MIB
"""Of a call's whole text: a migration may be long, a statement in it has SQLite's own limit."""


def resources(services: Services) -> list[Resource]:
    """Return the account's databases, by name."""
    return services.store.catalog().resources(services.account, TYPE)


def database_of(request: Request) -> tuple[Services, Resource]:
    """Return the database that an address names, by id or by name. Raises Refusal (7404)."""
    services, wanted = services_of(request), request.path_params["database"]
    for found in resources(services):
        if wanted in (found.id, found.name):
            return services, found
    raise Refusal(
        ABSENT,
        f"The database {wanted[:100]} could not be found",
        status=404,
        remedy="See what there is: wrangler d1 list",
    )


async def ask(services: Services, database: Resource, action: str, document: Any) -> dict[str, Any]:
    """Have the store do something. Raises Refusal (7500) in SQLite's words, StoreUnavailable."""
    body, within_s = msgspec.json.encode(document), services.platform.limits.d1_query_ms / 1000
    answer: dict[str, Any] = msgspec.json.decode(
        await send(services, database, action, body, within_s)
    )
    return answer


async def send(
    services: Services, database: Resource, action: str, body: bytes, within_s: float
) -> bytes:
    """Send the store bytes and return its answer. Raises as `ask`."""
    home = database.fields.get("machine", services.me)
    machine = "" if home == services.me else home
    _refuse_no_home(services, database, machine)
    asked = Asked(STORE, services.account, database.id, machine)
    status, content = await services.stores.ask(asked, f"/{action}", body, within_s)
    if status != 200:
        raise Refusal(SQL_FAILED, str(msgspec.json.decode(content).get("error", "unknown error")))
    return content


def _refuse_no_home(services: Services, database: Resource, machine: str) -> None:
    if machine and services.store.catalog().machine(machine) is None:
        raise Refusal(
            SQL_FAILED,
            f"The database {database.name!r} is kept by the machine {machine!r}, which is not of this"
            " fleet any more.",
            status=409,
            remedy="Restore that machine from its backup, or make the database anew.",
        )


def view(database: Resource, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a database as the API shows it."""
    return {
        "uuid": database.id,
        "name": database.name,
        "created_at": database.created_on,
        "version": "production",
        "num_tables": 0,
        "file_size": 0,
        "running_in_region": database.fields.get("region", ""),
        "read_replication": {"mode": "disabled"},
        **(info or {}),
    }


async def get_databases(request: Request) -> Response:
    """GET d1/database[?name=]. A token for some workers sees none: they are the account's."""
    services, caller = services_of(request), calling.get()
    mine = [] if caller is not None and caller.workers else resources(services)
    wanted = request.query_params.get("name")
    return listed(request, [view(found) for found in mine if wanted in (None, "", found.name)])


async def post_database(request: Request) -> Response:
    """POST d1/database: `name`; where it shall be is taken for a hint, and this machine."""
    services = services_of(request)
    limits = services.platform.limits
    document = await object_body(request, limits.json_body_bytes_max)
    name = as_text(document.get("name"), "name")
    if NAME.fullmatch(name) is None:
        raise Refusal(
            BAD_REQUEST,
            f"Invalid database name {shown(name)}.",
            remedy="Use letters, digits, - and _, 128 at most, not beginning with -.",
        )
    made = Resource(
        account=services.account,
        type=TYPE,
        id=services.chance.uuid(),
        name=name,
        created_on=iso(services.clock.now()),
        fields={"machine": services.me, "region": services.platform.region},
    )

    async def write() -> None:
        _refuse_taken(name, resources(services), limits.d1_databases_max)
        await services.store.write([put(made, 0)])

    await services.store.settled("D1 databases", write)
    try:
        info = await ask(services, made, "create", {})
    except KytheraError:
        await _end(services, made)  # A name without a database would help nobody.
        raise
    return success(view(made, info))


async def _end(services: Services, database: Resource) -> None:
    """End a record, if it is still there."""

    async def write() -> None:
        if database in resources(services):
            await services.store.write([end(database.key())])

    await services.store.settled("D1 databases", write)


def _refuse_taken(name: str, there: list[Resource], most: int) -> None:
    if any(found.name == name for found in there):
        raise Refusal(EXISTS, f"Database with name '{name}' already exists", status=409)
    if len(there) >= most:
        raise Refusal(
            TOO_MANY,
            f"There are {len(there)} databases, as many as may be (limit d1_databases_max).",
            status=403,
            remedy="Delete those that nobody uses: wrangler d1 list",
        )


async def get_database(request: Request) -> Response:
    """GET d1/database/{id or name}."""
    services, database = database_of(request)
    return success(view(database, await ask(services, database, "info", {})))


async def patch_database(request: Request) -> Response:
    """PUT or PATCH d1/database/{id}: read replication, which there is none of."""
    services, database = database_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    wanted = as_object(document.get("read_replication", {}), "read_replication")
    if wanted.get("mode", "disabled") != "disabled":
        raise Refusal(BAD_REQUEST, "Read replication is not offered: a database has one copy.")
    return success(view(database, await ask(services, database, "info", {})))


async def delete_database(request: Request) -> Response:
    """DELETE d1/database/{id}: what is in it, its file, and the record, in this order."""
    services, database = database_of(request)
    answer = await ask(services, database, "delete", {})
    # Of one that another machine keeps this finds nothing: an empty file stays there.
    folder = services.stores.folder(STORE) / STORE
    for ending in ("", "-wal", "-shm"):
        file = anyio.Path(folder / f"{answer['id']}.sqlite{ending}")
        await file.unlink(missing_ok=True)
    await _end(services, database)
    return success(None)


async def query(request: Request) -> Response:
    """POST d1/database/{id}/query: all statements of a text in one transaction."""
    return await _asked(request, as_arrays=False)


async def raw(request: Request) -> Response:
    """POST d1/database/{id}/raw: the same, rows as arrays."""
    return await _asked(request, as_arrays=True)


async def _asked(request: Request, *, as_arrays: bool) -> Response:
    services, database = database_of(request)
    document = await object_body(request, QUERY_BYTES_MAX)
    wanted: dict[str, Any] = {"as_arrays": as_arrays}
    if "batch" in document:
        batch = as_list(document["batch"], "batch")
        wanted["batch"] = [_statement(as_object(each, "an entry of batch")) for each in batch]
    else:
        wanted |= _statement(document)
    answer = await ask(services, database, "sql", wanted)
    return success(answer["answers"])


def _statement(document: Mapping[str, Any]) -> dict[str, Any]:
    params = as_list(document.get("params") or [], "params")
    for value in params:
        if isinstance(value, dict | list):
            raise Refusal(BAD_REQUEST, f"{shown(value)} cannot be a parameter.")
    return {"sql": as_text(document.get("sql"), "sql"), "params": params}


def routes(prefix: str) -> list[Route]:
    """Return the API's endpoints."""
    root = f"{prefix}/d1/database"
    one = f"{root}/{{database}}"
    return [
        Route(root, get_databases, methods=["GET"]),
        Route(root, post_database, methods=["POST"]),
        Route(one, get_database, methods=["GET"]),
        Route(one, patch_database, methods=["PUT", "PATCH"]),
        Route(one, delete_database, methods=["DELETE"]),
        Route(f"{one}/query", query, methods=["POST"]),
        Route(f"{one}/raw", raw, methods=["POST"]),
    ]
