"""The inner door: a frontend that this machine's cells reach other workers by.

Pure: lines of HAProxy's configuration. Who asks has shown the mark of the worker it means, as a header
or, for a tunnel of calls, in the name it connects to. Promises: without a mark that leads somewhere
nothing is reached; a request is shared out, queued and tried again as a visitor's is; a tunnel
goes to the cell of its lane, or to any where the lane is nobody's. The headers of a request are the
caller's own: CF-Ray and the rest are there if it passes them on.
"""

from collections.abc import Iterator
from pathlib import Path

from kythera.model.limits import Limits
from kythera.route.admission import Room
from kythera.route.lanes import LANE_MARK
from kythera.route.plan import SLOT_LETTER
from kythera.route.rules import (
    INTERNAL_PREFIX,
    POOL,
    RELAYING,
    last_rules,
    quoted,
    refused_rules,
    repeat_rules,
    socket_beside,
)

SERVICES_ENV = "KYTHERA_SERVICES_FD"
SERVICES_SOCKET = "store/services"
"""The keeper's name of it."""
MARK_HEADER = "x-kythera-service"
LANES_HEADER = "x-kythera-lanes"
GONE_HEADER = "x-kythera-gone"
SCHEME_HEADER = "X-Kythera-Scheme"
THREW_HEADER = "x-kythera-threw"
TOLD_HEADER = "x-kythera-told"
"""What a dispatch tells beside the request: to whose outbound worker, or to that what."""
SERVICES_RELAY = "services-relay"
NO_CONNECT = (
    '  http-request return status 405 content-type text/plain string "CONNECT is not for visitors."'
    " if { method CONNECT }"
)
"""For every door that is not this one: nobody else opens tunnels to cells."""
CALLS = "{ method CONNECT }"


def door_lines(room: Room, runtime_socket: Path) -> Iterator[str]:
    """Return the frontend up to where a request's way is chosen."""
    relay = quoted(f"unix@{socket_beside(runtime_socket, SERVICES_RELAY)}")
    rule = "  http-request set-var"
    yield f"  bind fd@${{{SERVICES_ENV}}}"
    yield f"  bind {relay} mode 600"
    # What workers ask of each other must not fill the door that visitors come by.
    yield f"  maxconn {room.queue}"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}(txn.ray) req.hdr(cf-ray)"
    yield f"{rule}(txn.lane) url,word(1,:) if {CALLS}"
    yield f"{rule}(txn.mark) var(txn.lane),word(1,{LANE_MARK}) if {CALLS}"
    yield f"{rule}(txn.mark) req.hdr({MARK_HEADER}) unless {CALLS}"
    yield f"{rule}(txn.slot) var(txn.mark),map_str(services.map)"
    gone = f'content-type text/plain string "gone" hdr {GONE_HEADER} 1'
    known = f"{{ var(txn.slot) -m beg {SLOT_LETTER} }}"
    yield f"  http-request return status 404 {gone} unless {known}"
    told = 'content-type text/plain lf-string "%[var(txn.mark),map_str(lanes.map)]"'
    yield f"  http-request return status 200 {told} if {{ req.hdr({LANES_HEADER}) -m found }}"
    yield f"{rule}(txn.slot) str({SERVICES_RELAY}) if {{ stopping }} {RELAYING}"
    yield f"  http-request allow if {{ var(txn.slot) -m str {SERVICES_RELAY} }}"
    yield f"{rule}(txn.scheme) req.hdr({SCHEME_HEADER})"
    yield f"{rule}(txn.told) req.fhdr({TOLD_HEADER})"
    yield f"  http-request del-header {INTERNAL_PREFIX} -m beg"
    yield f"  http-request set-header {TOLD_HEADER} %[var(txn.told)] if {{ var(txn.told) -m found }}"
    yield f"  http-request set-header {SCHEME_HEADER} https if {{ var(txn.scheme) -m str https }}"
    yield from _call_rules()
    yield from repeat_rules()


def _call_rules() -> Iterator[str]:
    """A tunnel: to its lane's cell, under the name that the cell's socket takes calls by."""
    yield f"  http-request set-var(txn.server) var(txn.lane),map_str(lane_servers.map) if {CALLS}"
    yield f"  http-request set-uri %[var(txn.mark)]:1 if {CALLS}"
    yield f"  http-request allow if {CALLS}"


def slot_line(limits: Limits) -> str:
    """Return what a worker's backend says of tunnels: one that nobody uses keeps no cell alive. A call
    that says nothing may last as long as a request may wait for its answer."""
    return f"  http-request set-timeout tunnel {limits.response_wait_s}s if {CALLS}"


def answer_lines(limits: Limits, uncaught: tuple[str, ...]) -> Iterator[str]:
    """Return what becomes of a cell's answer. `uncaught`: conditions of an uncaught exception."""
    yield from refused_rules(limits)
    yield f"  http-response del-header {INTERNAL_PREFIX} -m beg"
    for condition in uncaught:
        yield f"  http-response set-header {THREW_HEADER} 1 if {condition}"
    yield from last_rules()


def relay_lines(runtime_socket: Path) -> Iterator[str]:
    """Return the backend by which a process that drains hands over to the newest one."""
    yield f"backend {SERVICES_RELAY}"
    address = quoted(f"unix@{socket_beside(runtime_socket, SERVICES_RELAY)}")
    yield f"  server newest {address} {POOL}"
