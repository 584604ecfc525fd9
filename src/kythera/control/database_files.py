"""A database's content on its way in and out, as SQL: import, export; and what of its past there is.

Both are done when their answer comes, so clients that poll hear `complete` at once. The addresses
where files are put and fetched have no other guard than the signed text at their end.
Refuses: time travel, by name (a database is one SQLite file, which keeps no past).
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import object_body, read_body, room_for
from kythera.control.databases import BAD_REQUEST, database_of, send
from kythera.control.envelope import success
from kythera.control.scopes import D1_FILES
from kythera.control.services import Services, services_of
from kythera.deploy import assets
from kythera.deploy.assets import Claims
from kythera.deploy.documents import as_flag, as_object, as_text, as_texts
from kythera.ground.files import write_private
from kythera.model.errors import Refusal
from kythera.model.records import Resource

ETAG = re.compile(r"[0-9a-f]{32}")
FILENAME = re.compile(r"[0-9a-f-]{36}\.([0-9a-f]{32})\.sql")
ADDRESS_S = 3_600
"""How long an address for a file is good."""
NO_PAST = "Time travel is not offered: a database is one SQLite file, which keeps no past."
INSTEAD = "Keep one yourself: wrangler d1 export, or kythera backup create."


def _address(request: Request, purpose: str, database: Resource, about: str) -> str:
    """Return where a client puts or fetches a file, at the door that it came through."""
    services = services_of(request)
    signed = Claims(
        purpose=purpose,
        account=services.account,
        worker=database.id,
        manifest=about,
        exp=int(services.fleet_now()) + ADDRESS_S,
    )
    token = assets.issue(signed, services.session_key)
    return f"{request.url.scheme}://{request.url.netloc}{D1_FILES}/{token}"


async def import_(request: Request) -> Response:
    """POST d1/database/{id}/import: init, ingest, poll."""
    services, database = database_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    match document.get("action"):
        case "init":
            etag = as_text(document.get("etag"), "etag")
            if ETAG.fullmatch(etag) is None:
                raise Refusal(BAD_REQUEST, "`etag` must be the MD5 of the file, in hexadecimal.")
            await anyio.to_thread.run_sync(_sweep, services.stores.transfers, services.clock.now())
            found = {"filename": f"{database.id}.{etag}.sql"}
            address = _address(request, "d1-import", database, etag)
            return success({**_state("init"), **found, "upload_url": address})
        case "ingest":
            filename = as_text(document.get("filename"), "filename")
            return success(await _ingest(services, database, filename))
        case "poll":
            return success({**_state("error"), "success": False, "error": NOTHING_RUNS})
    raise Refusal(BAD_REQUEST, "`action` must be init, ingest or poll.")


NOTHING_RUNS = "Not currently importing anything."


def _state(status: str, kind: str = "import") -> dict[str, Any]:
    return {"success": True, "type": kind, "status": status, "at_bookmark": "", "messages": []}


async def _ingest(services: Services, database: Resource, filename: str) -> dict[str, Any]:
    if FILENAME.fullmatch(filename) is None or not filename.startswith(database.id):
        raise Refusal(BAD_REQUEST, "`filename` is not one that this database gave out.")
    file = anyio.Path(services.stores.transfers / filename)
    if not await file.exists():
        raise Refusal(BAD_REQUEST, f"{filename} was not uploaded.", remedy="Import it again.")
    within_s = services.platform.limits.d1_import_ms / 1000
    try:
        began = services.clock.monotonic()
        content = await send(services, database, "import", await file.read_bytes(), within_s)
        totals = msgspec.json.decode(content)
        totals["duration"] = round((services.clock.monotonic() - began) * 1000)
    except Refusal as error:
        reason = {"error": error.message, "errors": [error.message]}
        return {**_state("error"), "success": False, **reason}
    finally:
        await file.unlink(missing_ok=True)
    n_queries = totals.pop("num_queries")
    result = {"num_queries": n_queries, "final_bookmark": "", "meta": totals}
    return {**_state("complete"), "result": result}


def _sweep(folder: Path, now: float) -> None:
    """Remove what was uploaded and never taken in."""
    for file in folder.iterdir():
        if file.stat().st_mtime < now - ADDRESS_S:
            file.unlink(missing_ok=True)


async def put_file(request: Request) -> Response:
    """PUT a file to the address that `init` gave: taken if it is what was announced."""
    services, claims = _claimed(request, "d1-import")
    async with room_for(request, request.app.state.large_bodies):
        data = await read_body(request, services.platform.limits.d1_import_bytes_max)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if etag != claims.manifest:
            raise Refusal(BAD_REQUEST, f"The file's MD5 is {etag}, not {claims.manifest}.")
        place = services.stores.transfers / f"{claims.worker}.{etag}.sql"
        await anyio.to_thread.run_sync(write_private, place, data)
    return Response(b"", headers={"etag": f'"{etag}"'})


async def export(request: Request) -> Response:
    """POST d1/database/{id}/export: say where the text can be fetched."""
    services, database = database_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    options = as_object(document.get("dump_options") or {}, "dump_options")
    wanted = {
        "no_schema": as_flag(options.get("no_schema", False), "no_schema"),
        "no_data": as_flag(options.get("no_data", False), "no_data"),
        "tables": as_texts(options.get("tables") or [], "tables"),
    }
    if wanted["no_schema"] and wanted["no_data"]:
        raise Refusal(BAD_REQUEST, "Neither schema nor data is nothing at all.")
    # Asked now: what cannot be exported is said here, where a client looks for it.
    within_s = services.platform.limits.d1_query_ms / 1000
    schema = msgspec.json.encode({**wanted, "no_schema": False, "no_data": True})
    await send(services, database, "export", schema, within_s)
    address = _address(request, "d1-export", database, json.dumps(wanted))
    found = {"filename": f"{database.name}.sql", "signed_url": address}
    return success({**_state("complete", "export"), "result": found})


async def get_file(request: Request) -> Response:
    """GET the text at the address that `export` gave."""
    services, claims = _claimed(request, "d1-export")
    catalog = services.store.catalog()
    database = catalog.resource(services.account, "d1", claims.worker)
    if database is None:
        raise Refusal(BAD_REQUEST, "This database has been deleted.", status=404)
    within_s = services.platform.limits.d1_import_ms / 1000
    text = await send(services, database, "export", claims.manifest.encode(), within_s)
    return Response(text, media_type="application/sql")


def _claimed(request: Request, purpose: str) -> tuple[Services, Claims]:
    services = services_of(request)
    token, now = request.path_params["token"], services.fleet_now()
    return services, assets.redeem(token, services.session_key, now, purpose)


async def time_travel(request: Request) -> Response:
    """GET …/time_travel/bookmark, POST …/time_travel/restore."""
    database_of(request)
    raise Refusal(BAD_REQUEST, NO_PAST, remedy=INSTEAD)


def routes(prefix: str) -> list[Route]:
    """Return the API's endpoints."""
    one = f"{prefix}/d1/database/{{database}}"
    return [
        Route(f"{one}/import", import_, methods=["POST"]),
        Route(f"{one}/export", export, methods=["POST"]),
        Route(f"{one}/time_travel/bookmark", time_travel, methods=["GET"]),
        Route(f"{one}/time_travel/restore", time_travel, methods=["POST"]),
        Route(f"{D1_FILES}/{{token}}", put_file, methods=["PUT"]),
        Route(f"{D1_FILES}/{{token}}", get_file, methods=["GET"]),
    ]
