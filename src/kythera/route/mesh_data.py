"""Data that another machine of the fleet keeps: the door for this machine's cells, and the home's.

Pure: lines of HAProxy's configuration. Who asks has shown the mark of a *way*, as a header or, for a
tunnel of calls, in the name it connects to; the map `ways` says which machine is meant, what of it,
and whether a pass is asked for. Promises: without such a mark nothing is reached; a pass is believed
here if this machine signed it, and is signed anew by its home with the home's own key, so that no key
leaves its machine; a home that is away is said to be, by name, soon.
"""

import base64
from collections.abc import Iterable, Iterator

from kythera.ground.passes import PASS_HEADER
from kythera.model.limits import Limits
from kythera.route.admission import (
    DATA_ABSENT,
    DATA_FORBIDDEN,
    DATA_UNKNOWN,
    Room,
    counted,
)
from kythera.route.mesh import DATA, PeerServer
from kythera.route.plan import DATA_SLOT, Server
from kythera.route.rules import POOL, quoted
from kythera.route.services import CALLS

DATA_ENV = "KYTHERA_DATA_FD"
DATA_SOCKET = "store/fleet"
"""The keeper's name of the door for cells."""
WAY_HEADER = "x-kythera-way"
NAME_HEADER = "x-kythera-data"
GRANTED_HEADER = "x-kythera-granted"
"""What a pass grants, between two machines: the home puts its own mark to it."""
AWAY_HEADER = "x-kythera-away"
"""In an answer: it is HAProxy's own, and nothing was done."""
R2_ERROR_HEADER = "CF-R2-Error"
FAR = "data_far_"
"""How the backends begin that lead to a peer's data."""
OBJECTS_HOST = "objects"
"""What an object cell takes calls by (`run.objects`)."""
PASS_WORD = "pass"  # noqa: S105 (a word of the map)
PEER_POOL = "pool-max-conn -1 pool-purge-delay 30s"


def far_backend(peer: str) -> str:
    """Return the backend that leads to a peer's data."""
    return f"{FAR}{peer}"


def _marked(variable: str, key: str) -> str:
    """Return an expression for the mark that `ground.passes.sign` would put to a payload."""
    secret = base64.b64encode(key.encode()).decode()
    return f"var({variable}),hmac(sha256,{secret}),ub64enc"


def asking_lines(
    key: str, limits: Limits, room: Room, tls: Iterable[tuple[PeerServer, str]]
) -> Iterator[str]:
    """Yield the door for this machine's cells, and the ways on. `tls`: each peer with what follows
    its address."""
    rule = "  http-request set-var"
    yield "frontend data_door"
    yield f"  bind fd@${{{DATA_ENV}}}"
    yield "  no option idle-close-on-response"
    yield f"  maxconn {room.queue}"
    yield f"{rule}(txn.mark) url,word(1,:) if {CALLS}"
    yield f"{rule}(txn.mark) req.hdr({WAY_HEADER}) unless {CALLS}"
    yield f"{rule}(txn.way) var(txn.mark),map_str(ways.map)"
    unknown = "!{ var(txn.way) -m found }"
    yield from _refusal(DATA_UNKNOWN, 404, "this leads to no data of this fleet", unknown)
    for number, name in enumerate(("peer", "name", "wants"), start=1):
        yield f"{rule}(txn.{name}) var(txn.way),word({number},|)"
    wants = f"{{ var(txn.wants) -m str {PASS_WORD} }}"
    yield f"{rule}(txn.granted) req.hdr({PASS_HEADER}),word(1,.) if {wants}"
    yield f"{rule}(txn.shown) req.hdr({PASS_HEADER}),word(2,.) if {wants}"
    yield f"{rule}(txn.right) {_marked('txn.granted', key)} if {wants}"
    forged = f"{wants} !{{ var(txn.right),strcmp(txn.shown) eq 0 }}"
    yield from _refusal(DATA_FORBIDDEN, 403, "this is not a pass of this machine", forged)
    for header in (PASS_HEADER, WAY_HEADER, NAME_HEADER, GRANTED_HEADER):
        yield f"  http-request del-header {header}"
    yield f"  http-request set-header {NAME_HEADER} %[var(txn.name)] unless {CALLS}"
    yield f"  http-request set-header {GRANTED_HEADER} %[var(txn.granted)] if {wants}"
    yield f"  http-request set-uri %[var(txn.name)]:1 if {CALLS}"
    yield f"  use_backend {FAR}%[var(txn.peer)]"
    for peer, words in tls:
        yield from _far(peer, words, limits)


def _refusal(reason: str, status: int, why: str, condition: str) -> Iterator[str]:
    body = '{"success":false,"error":"' + why + '"}'
    text = f"content-type application/json string {quoted(body)} hdr {AWAY_HEADER} 1"
    yield f"{counted(reason)} if {condition}"
    yield f"  http-request return status {status} {text} if {condition}"


def _failing(why: str) -> Iterator[str]:
    """What is answered when nobody else answers."""
    body = quoted('{"success":false,"error":"' + why + '"}')
    told = quoted('{"version":1,"v4code":10001,"message":"' + why + '"}')
    for status in (502, 503, 504):
        text = f"content-type application/json string {body} hdr {AWAY_HEADER} 1"
        # As R2's binding reads it.
        text += f" hdr {R2_ERROR_HEADER} {told}"
        yield f"  http-error status {status} {text}"


def _far(peer: PeerServer, words: str, limits: Limits) -> Iterator[str]:
    connect_ms = limits.peer_connect_ms if peer.same_site else limits.peer_answer_ms
    yield f"backend {far_backend(peer.name)}"
    yield "  no option redispatch"
    # Never twice: it may have been done.
    yield "  retry-on conn-failure"
    yield f"  timeout connect {connect_ms}ms"
    yield f"  http-request set-timeout tunnel {limits.response_wait_s}s if {CALLS}"
    yield from _failing(f"the machine {peer.name}, which keeps these data, does not answer")
    yield f"  server home {peer.address} {words} {PEER_POOL}"


def home_lines(
    door: Iterable[str], servers: Iterable[Server], key: str, member: str, limits: Limits
) -> Iterator[str]:
    """Yield the door for other machines' cells, and what is kept here. `door`: what asks for a
    certificate of the fleet; `member`: the condition that it is a member's."""
    rule = "  http-request set-var"
    yield f"frontend mesh_{DATA}"
    yield from door
    yield "  no option idle-close-on-response"
    # At each request: a connection outlives its machine's membership.
    yield f"  http-request reject unless {member}"
    yield f"{rule}(txn.name) url,word(1,:) if {CALLS}"
    yield f"{rule}(txn.name) req.hdr({NAME_HEADER}) unless {CALLS}"
    yield f"{rule}(txn.server) var(txn.name),map_str(data.map)"
    why, absent = (
        "the machine that keeps these data does not have them",
        "!{ var(txn.server) -m found }",
    )
    yield from _refusal(DATA_ABSENT, 503, why, absent)
    yield f"{rule}(txn.granted) req.hdr({GRANTED_HEADER})"
    granted = "{ var(txn.granted) -m found }"
    yield f"{rule}(txn.right) {_marked('txn.granted', key)} if {granted}"
    for header in (NAME_HEADER, GRANTED_HEADER, PASS_HEADER):
        yield f"  http-request del-header {header}"
    signed = "%[var(txn.granted)].%[var(txn.right)]"
    yield f"  http-request set-header {PASS_HEADER} {signed} if {granted}"
    yield f"  http-request set-uri {OBJECTS_HOST} if {CALLS}"
    yield f"  default_backend {DATA_SLOT}"
    yield f"backend {DATA_SLOT}"
    yield "  no option redispatch"
    # Never twice: it may have been done.
    yield "  retry-on conn-failure"
    # Never on a connection that the store may be closing: what was sent could not be sent again.
    yield "  http-reuse never"
    yield f"  http-request set-timeout tunnel {limits.response_wait_s}s if {CALLS}"
    yield from _failing("the store of these data is down on the machine that keeps them")
    yield f"  http-response del-header {AWAY_HEADER}"  # A worker cannot claim to be us.
    yield "  use-server %[var(txn.server)] if { var(txn.server) -m found }"
    for server in servers:
        yield f"  server {server.name} {quoted('unix@' + server.path)} {data_words(server)}"


def data_words(server: Server) -> str:
    """Return what follows a server's address, as `render.server_words` says it."""
    return f"{POOL} weight {server.weight}"
