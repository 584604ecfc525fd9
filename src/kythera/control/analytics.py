"""Analytics Engine's SQL: a query in, rows out, over what this machine has been told.

Each query is a process of its own (`store.analytics_query`) with limits on time, memory and rows; so
many run at once, and the rest wait their turn within the same deadline. Refuses in DuckDB's words.
"""

import sys

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import read_body
from kythera.control.services import Services, services_of
from kythera.ground.processes import child
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.store.analytics_order import Order, Outcome

MIB = 1024 * 1024
BAD_QUERY = 10021
OWN_MEMORY_MIB = 1_024
"""What a process reserves beside what the query may take: the program itself, and room it never uses."""
KINDS = {"TabSeparated": "text/tab-separated-values; charset=utf-8"}


async def post_sql(request: Request) -> Response:
    """POST analytics_engine/sql: the query is the body, as it is."""
    services = services_of(request)
    limits = services.platform.limits
    body = await read_body(request, limits.analytics_sql_bytes_max)
    return await _answer(services, body.decode(errors="replace"))


async def get_sql(request: Request) -> Response:
    """GET analytics_engine/sql?query="""
    return await _answer(services_of(request), request.query_params.get("query", ""))


async def _answer(services: Services, sql: str) -> Response:
    limits, layout = services.platform.limits, services.fleet.layout
    if layout is None:
        raise StoreUnavailable("This process has no state folder to read data points from.")
    if not sql.strip():
        raise Refusal(BAD_QUERY, "There is no query.", remedy="Send the SQL as the body.")
    order = Order(
        folder=str(layout.data / "analytics"),
        account=services.account,
        sql=sql,
        memory_mib=limits.analytics_memory_mib,
        rows_max=limits.analytics_rows_max,
    )
    outcome = await _ask(services, order)
    if outcome.error:
        raise Refusal(BAD_QUERY, f"The query cannot be answered: {outcome.error}", status=422)
    kind = KINDS.get(outcome.format, "application/json")
    return Response(outcome.text, media_type=kind, headers={"cache-control": "no-store"})


async def _ask(services: Services, order: Order) -> Outcome:
    limits = services.platform.limits
    argv = [sys.executable, "-m", "kythera.store.analytics_query"]
    rlimits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 4_096,
        "RLIMIT_CPU": max(1, limits.analytics_query_ms // 1_000 + 1),
        "RLIMIT_AS": (OWN_MEMORY_MIB + order.memory_mib) * MIB,
    }
    with anyio.move_on_after(limits.analytics_query_ms / 1_000):
        async with (
            services.queries,
            child(argv, stdin=msgspec.json.encode(order), rlimits=rlimits) as process,
        ):
            output = await process.read_output()
            return _read(output.stdout)
    raise Refusal(
        BAD_QUERY,
        f"The query took longer than {limits.analytics_query_ms:,} ms (limit analytics_query_ms).",
        status=422,
        remedy="Ask for less: a shorter time, fewer columns, a LIMIT.",
    )


def _read(answer: bytes) -> Outcome:
    try:
        return msgspec.json.decode(answer, type=Outcome)
    except msgspec.MsgspecError:
        return Outcome(error="it used more memory than it may (limit analytics_memory_mib).")


def routes(account: str) -> list[Route]:
    """Return the API's endpoint."""
    path = f"{account}/analytics_engine/sql"
    return [Route(path, get_sql, methods=["GET"]), Route(path, post_sql, methods=["POST"])]
