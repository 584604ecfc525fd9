"""The audit, to read: who changed what, in the order of the log.

Promises: the order is the log's, which all machines share, whatever their clocks say.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.envelope import listed
from kythera.control.services import Services, services_of
from kythera.deploy.documents import as_moment
from kythera.ground.clock import iso
from kythera.model.records import Audit

PER_PAGE = 100


def entries(services: Services) -> list[Audit]:
    """Return what each machine remembers, oldest first."""
    store = services.store
    found = [r for r in store.catalog().records.values() if isinstance(r, Audit)]
    return sorted(found, key=lambda record: store.guard_of(record.key()))


def view(record: Audit, account: str) -> dict[str, Any]:
    """Return a record in Cloudflare's words, and in `kythera` what they have no word for."""
    actor = {"id": record.token or record.who, "email": record.who, "ip": record.client}
    return {
        "id": f"{record.machine}-{record.number}",
        "when": record.at,
        "actor": {**actor, "type": "machine" if record.who.startswith("machine ") else "token"},
        "action": {"type": record.what, "result": True, "info": record.note},
        "resource": {"type": record.about.partition(" ")[0], "id": record.about},
        "interface": record.agent,
        "owner": {"id": account},
        "metadata": {"machine": record.machine, "worker": record.worker},
        "oldValueJson": record.before,
        "newValueJson": record.after,
    }


async def get_logs(request: Request) -> Response:
    """GET audit_logs[?since=&before=&worker=&direction=asc|desc&page=&per_page=]: newest first."""
    services, asked = services_of(request), request.query_params
    since, before = _moment(asked, "since"), _moment(asked, "before")
    found = [
        view(record, services.account)
        for record in entries(services)
        if (since is None or record.at >= since)
        and (before is None or record.at < before)
        and asked.get("worker") in (None, record.worker)
    ]
    if asked.get("direction") != "asc":
        found.reverse()
    return listed(request, found if asked.get("per_page") else found[:PER_PAGE])


def _moment(asked: Mapping[str, str], name: str) -> str | None:
    return iso(as_moment(asked[name], name)) if asked.get(name) else None


def routes(account: str) -> list[Route]:
    """Return the API's endpoint."""
    return [Route(f"{account}/audit_logs", get_logs, methods=["GET"])]
