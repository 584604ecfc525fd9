"""Tails: making one, connecting to it, keeping it alive, and the events that cells send.

A tail is a record with an expiry: while it is there, cells of its worker are observed. It is
renewed while a socket is connected and ends with it; the older wrangler never deletes its own,
so that those nobody is connected to expire. The address of the socket is the capability.
"""

import re
from contextlib import suppress

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kythera.control.bodies import object_body, read_body
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import end, put
from kythera.control.tail_hub import Watch
from kythera.control.workers import worker_of
from kythera.ground.clock import iso
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable
from kythera.model.limits import MIB
from kythera.model.records import Tail
from kythera.observe.tail import read_filters

SUBPROTOCOL = "trace-v1"
EVENTS_BYTES_MAX = 16 * MIB
SOCKET_CHECK_S_MAX = 5.0
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")
TAIL_GONE = 10057
TOO_MANY_TAILS = 10058


async def post_tail(request: Request) -> Response:
    """POST scripts/{name}/tails: make a tail that somebody connects to soon."""
    services, worker, _ = worker_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    filters = read_filters(document.get("filters") or [], _client_ip(request))
    limits = services.platform.limits
    now = services.clock.now()
    there = services.store.catalog().tails(services.account, worker.name)
    if sum(tail.expires_on > iso(now) for tail in there) >= limits.tails_per_worker_max:
        raise Refusal(
            TOO_MANY_TAILS,
            f"Worker {worker.name!r} has {limits.tails_per_worker_max} tails already.",
            status=429,
            remedy=f"Stop one; those nobody watches end after {limits.tail_idle_s:g} s.",
        )
    tail = Tail(
        account=services.account,
        worker=worker.name,
        id=services.chance.hex(32),
        created_on=iso(now),
        expires_on=iso(now + limits.tail_idle_s),
        filters=filters,
    )
    await services.store.write([put(tail)])
    return success({**_view(tail), "url": _socket_url(request, services, tail.id)})


def _view(tail: Tail) -> dict[str, object]:
    return {"id": tail.id, "expires_at": tail.expires_on}


def _client_ip(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _socket_url(request: Request, services: Services, tail_id: str) -> str:
    """Return the socket's address by the name under which the client found us."""
    host = request.headers.get("host", "")
    if HOST.fullmatch(host) is None:
        host = services.platform.api
    secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    return f"{'wss' if secure else 'ws'}://{host}/tails/{tail_id}"


async def tails(request: Request) -> Response:
    """GET scripts/{name}/tails: how many watch (never their addresses)."""
    services, worker, _ = worker_of(request)
    found = services.store.catalog().tails(services.account, worker.name)
    return listed(request, [{"expires_at": tail.expires_on} for tail in found])


async def delete_tail(request: Request) -> Response:
    """DELETE scripts/{name}/tails/{id}; one that is gone already is gone."""
    services, worker, _ = worker_of(request)
    wanted = request.path_params["tail"]
    for tail in services.store.catalog().tails(services.account, worker.name):
        if tail.id == wanted:
            await services.store.write([end(tail.key())])
    return success(None)


def find(services: Services, tail_id: str) -> Tail | None:
    """Return the tail of that id, of whichever worker, unless it has expired."""
    now = iso(services.clock.now())
    for record in services.store.catalog().records.values():
        if isinstance(record, Tail) and record.id == tail_id and record.expires_on > now:
            return record
    return None


class Socket:
    """The endpoint WS /tails/{id}."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one watcher until it goes or its tail ends."""
        socket = WebSocket(scope, receive, send)
        tail = self._find(scope["path_params"]["tail"])
        if tail is None:
            reason = {"success": False, "errors": [{"code": TAIL_GONE, "message": "No such tail."}]}
            await socket.send_denial_response(JSONResponse(reason, 404))
            return
        offered = scope.get("subprotocols", [])
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        watch = self._services.tails.watch(tail)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_closed, socket, tasks.cancel_scope)
                tasks.start_soon(self._renew, tail, tasks.cancel_scope)
                await self._send(socket, watch, tasks.cancel_scope)
        finally:
            self._services.tails.forget(watch)
            with anyio.CancelScope(shield=True):
                await self._end(socket, tail)

    def _find(self, tail_id: str) -> Tail | None:
        try:
            return find(self._services, tail_id)
        except StoreUnavailable:
            return None

    async def _send(self, socket: WebSocket, watch: Watch, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await socket.send_bytes(await watch.next_frame())
        except (WebSocketDisconnect, RuntimeError, anyio.EndOfStream):
            scope.cancel()

    async def _until_closed(self, socket: WebSocket, scope: anyio.CancelScope) -> None:
        """Read (wrangler says `{"debug":false}` once) so that a close is noticed."""
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
        scope.cancel()

    async def _renew(self, tail: Tail, scope: anyio.CancelScope) -> None:
        """Keep the record alive; when somebody ended it (or its worker), end the socket."""
        idle_s = self._services.platform.limits.tail_idle_s
        while True:
            await anyio.sleep(min(idle_s / 3, SOCKET_CHECK_S_MAX))
            try:
                record = self._services.store.catalog().records.get(tail.key())
                if not isinstance(record, Tail):
                    scope.cancel()
                    return
                now = self._services.clock.now()
                if record.expires_on <= iso(now + idle_s * 2 / 3):
                    later = msgspec.structs.replace(tail, expires_on=iso(now + idle_s))
                    await self._services.store.write([put(later)])
            except KytheraError as error:
                self._services.journal.say("tail_not_renewed", reason=str(error))

    async def _end(self, socket: WebSocket, tail: Tail) -> None:
        with anyio.move_on_after(1), suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()
        if self._services.tails.is_connected(tail.id):
            return
        with anyio.move_on_after(SOCKET_CHECK_S_MAX):
            try:
                if tail.key() in self._services.store.catalog().records:
                    await self._services.store.write([end(tail.key())])
            except KytheraError as error:
                self._services.journal.say("tail_left_to_expire", reason=str(error))


async def sweep(services: Services) -> int:
    """End the tails that have expired; return how many."""
    now = iso(services.clock.now())
    expired = [
        record.key()
        for record in services.store.catalog().records.values()
        if isinstance(record, Tail)
        and record.expires_on <= now
        and not services.tails.is_connected(record.id)
    ]
    if expired:
        await services.store.write([end(key) for key in expired])
    return len(expired)


async def keep_sweeping(services: Services) -> None:
    """Sweep now and then, for ever."""
    while True:
        await anyio.sleep(services.platform.limits.tail_idle_s)
        try:
            await sweep(services)
        except KytheraError as error:
            services.journal.say("sweep_postponed", reason=str(error))


async def take_events(request: Request) -> Response:
    """POST /{account}/{worker}/{version} on the cells' own socket: what happened there."""
    services = services_of(request)
    account, worker = request.path_params["account"], request.path_params["worker"]
    if not services.tails.is_watched(account, worker):
        return Response(status_code=204)
    try:
        body = await read_body(request, EVENTS_BYTES_MAX)
        events = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, Refusal):
        return Response(status_code=400)
    services.tails.publish(account, worker, events if isinstance(events, list) else [events])
    return Response(status_code=204)


def event_routes() -> list[Route]:
    """Return what the cells' socket answers to."""
    return [Route("/{account}/{worker}/{version}", take_events, methods=["POST"])]
