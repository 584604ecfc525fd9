"""Tails: making one, connecting to it, keeping it alive, and the events that cells send.

A tail is a record with an expiry: while it is there, cells of its worker are observed, on every
machine. It is renewed while a socket is connected and ends with it; the older wrangler never deletes
its own, so that those nobody is connected to expire. The address of the socket is the capability.

The record names the machine whose API the watcher is connected to: there all machines send what
happens. Who connects elsewhere takes the tail along; the newest connection has it. Only that machine
believes the expiry in it (clocks may be hours apart); others go by how long it was not renewed.
"""

import re
from collections.abc import Sequence
from contextlib import suppress

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kythera.control.api_proofs import is_good
from kythera.control.bodies import object_body
from kythera.control.caller import calling
from kythera.control.envelope import listed, success
from kythera.control.peers_events import read_events
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.control.tail_hub import Watch
from kythera.control.tail_relay import About
from kythera.control.workers import worker_of
from kythera.ground.clock import iso
from kythera.model.errors import Conflict, KytheraError, Refusal, StoreUnavailable
from kythera.model.records import Tail
from kythera.observe.tail import frame, read_filters, stored_filters, wants

SUBPROTOCOL = "trace-v1"
SOCKET_CHECK_S_MAX = 5.0
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")
TAIL_GONE = 10057
TOO_MANY_TAILS = 10058
LEFT_IDLES = 3
"""So many times `tail_idle_s` a tail may go without renewal, whatever its expiry says."""


async def post_tail(request: Request) -> Response:
    """POST scripts/{name}/tails: make a tail that somebody connects to soon."""
    services, worker, _ = worker_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    filters = read_filters(document.get("filters") or [], _client_ip(request))
    limits = services.platform.limits
    now, caller = services.clock.now(), calling.get()
    there = services.store.catalog().tails(services.account, worker.name)
    if sum(is_alive(tail, services.me, iso(now)) for tail in there) >= limits.tails_per_worker_max:
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
        machine=services.me,
        token=caller.token if caller is not None else "",
    )
    await services.store.write([put(tail)])
    return success({**_view(tail), "url": _socket_url(request, services, tail.id)})


def is_here(tail: Tail, me: str) -> bool:
    """Tell whether a tail's watcher is (or shall be) connected to this machine."""
    return tail.machine in ("", me)


def is_alive(tail: Tail, me: str, now_iso: str) -> bool:
    """Tell whether a tail still counts; others' expiries were written by other clocks."""
    return not is_here(tail, me) or tail.expires_on > now_iso


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

    async def change() -> None:
        for tail in services.store.catalog().tails(services.account, worker.name):
            if tail.id == wanted:
                await services.store.write([end(tail.key())])

    await services.store.settled(f"tail {wanted}", change)
    return success(None)


def find(services: Services, tail_id: str) -> Tail | None:
    """Return the tail of that id, of whichever worker, unless it has expired."""
    now = iso(services.clock.now())
    for record in services.store.catalog().records.values():
        if isinstance(record, Tail) and record.id == tail_id:
            return record if is_alive(record, services.me, now) else None
    return None


class Socket:
    """The endpoint WS /tails/{id}."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one watcher until it goes or its tail ends."""
        socket = WebSocket(scope, receive, send)
        tail = await self._find(scope["path_params"]["tail"])
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

    async def _find(self, tail_id: str) -> Tail | None:
        """Look it up; it may have been made on another machine a moment ago."""
        services = self._services
        try:
            found = find(services, tail_id)
            if found is None and len(services.store.catalog().machines()) > 1:
                limits = services.platform.limits
                await services.fleet.freshness.wait(services.store, limits, services.clock)
                found = find(services, tail_id)
        except StoreUnavailable:
            return None
        return found

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
        """Keep the record alive and ours; when somebody ended it (or its worker) or connected to
        it on another machine, end the socket."""
        idle_s = self._services.platform.limits.tail_idle_s
        taken = is_here(tail, self._services.me)
        while True:
            try:
                record = self._services.store.catalog().records.get(tail.key())
                if not isinstance(record, Tail) or (taken and not self._is_here(record)):
                    scope.cancel()
                    return
                if not is_good(record.token, self._services):
                    scope.cancel()  # and its record goes with the socket
                    return
                await self._keep(record, idle_s)
                taken = True
            except KytheraError as error:
                self._services.journal.say("tail_not_renewed", reason=str(error))
            await anyio.sleep(min(idle_s / 3, SOCKET_CHECK_S_MAX))

    async def _keep(self, record: Tail, idle_s: float) -> None:
        """Write the record when it is another machine's, or would expire soon."""
        now = self._services.clock.now()
        if self._is_here(record) and record.expires_on > iso(now + idle_s * 2 / 3):
            return
        later = msgspec.structs.replace(
            record, expires_on=iso(now + idle_s), machine=self._services.me
        )
        await self._services.store.write([put(later)])

    def _is_here(self, record: Tail) -> bool:
        return is_here(record, self._services.me)

    async def _end(self, socket: WebSocket, tail: Tail) -> None:
        with anyio.move_on_after(1), suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()
        if self._services.tails.is_connected(tail.id):
            return
        with anyio.move_on_after(SOCKET_CHECK_S_MAX):
            try:
                record = self._services.store.catalog().records.get(tail.key())
                if isinstance(record, Tail) and self._is_here(record):
                    await self._services.store.write([end(tail.key())])
            except KytheraError as error:
                self._services.journal.say("tail_left_to_expire", reason=str(error))


async def sweep(services: Services) -> int:
    """End the tails that have expired; return how many.

    Others' tails are ended when their machine has not renewed them for long: it is gone. Several
    machines may try; each end holds only over the record that was looked at."""
    ended = 0
    for change in _expired(services):
        try:
            await services.store.write([change])
        except Conflict:
            continue  # it was renewed or ended meanwhile
        ended += 1
    return ended


def _expired(services: Services) -> list[Change]:
    now, monotonic = iso(services.clock.now()), services.clock.monotonic()
    catalog, ages = services.store.catalog(), services.fleet.tail_ages
    tails = {key: r for key, r in catalog.records.items() if isinstance(r, Tail)}
    seqs = {key: services.store.guard_of(key) for key in tails}
    ages.note(seqs, monotonic)
    # A clock that was put back makes expiries far away of this machine's own tails, too.
    left = ages.unchanged(LEFT_IDLES * services.platform.limits.tail_idle_s, monotonic)
    return [
        Change(key, None, seqs[key])
        for key, tail in tails.items()
        if (key in left or not is_alive(tail, services.me, now))
        and not (is_here(tail, services.me) and services.tails.is_connected(tail.id))
    ]


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
    about = About(*(request.path_params[part] for part in ("account", "worker", "version")))
    watched = services.tails.is_watched(about.account, about.worker)
    elsewhere = _watchers_elsewhere(services, about)
    if not watched and not elsewhere:
        return Response(status_code=204)
    events = await read_events(request)
    if events is None:
        return Response(status_code=400)
    if watched:
        services.tails.publish(about.account, about.worker, events)
    for tails in elsewhere.values():
        _send_on(services, about, tails, events)
    return Response(status_code=204)


def _watchers_elsewhere(services: Services, about: About) -> dict[str, list[Tail]]:
    """Return the tails of a worker whose watchers are connected to other machines, by machine."""
    found: dict[str, list[Tail]] = {}
    try:
        tails = services.store.catalog().tails(about.account, about.worker)
    except StoreUnavailable:
        return found
    for tail in tails:
        if not is_here(tail, services.me):
            found.setdefault(tail.machine, []).append(tail)
    return found


def _send_on(
    services: Services, about: About, tails: Sequence[Tail], events: Sequence[object]
) -> None:
    """Queue for one machine what any of its watchers asked for (it samples them itself)."""
    machine = services.store.catalog().machine(tails[0].machine)
    if machine is None:
        services.fleet.relay.lost["machine_gone"] += len(events)
        return
    limits = services.platform.limits
    filters = [stored_filters(tail.filters) for tail in tails]
    wanted = [
        frame(event, limits.tail_event_bytes_max)
        for event in events
        if isinstance(event, dict) and any(wants(each, event, 0.0) for each in filters)
    ]
    services.fleet.relay.offer(machine, about, wanted, limits, services.clock.monotonic())


def event_routes() -> list[Route]:
    """Return what the cells' socket answers to."""
    return [Route("/{account}/{worker}/{version}", take_events, methods=["POST"])]
