"""The fleet in HAProxy's configuration: the door for other machines, and the ways to them.

Pure. One port for all: `mesh` reads the server name of the TLS hello, still encrypted, and hands
the stream to the inner door of that service, which asks for a certificate of the fleet and for a
name in `members.map`. Requests of other machines' visitors are served by `here`, which knows no way
to another machine: one hop at most, never a loop. What cannot be served is refused by
REFUSED_STATUS, and the first machine asks the next.

`home` and `away` are the ways out. Both place a worker's name on a ring, equal on every machine.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kythera.model.limits import Limits
from kythera.route.admission import Room, far_queue_rules
from kythera.route.mesh import CONTROL, DATA, HTTP, MeshFiles, PeerServer, Tunnel
from kythera.route.mesh_data import asking_lines, home_lines
from kythera.route.pages import REFUSED_MARK, REFUSED_STATUS
from kythera.route.plan import AWAY, DATA_SLOT, HOME, SLOT_LETTER, FrontPlan
from kythera.route.rules import (
    ABLE_PATH,
    INTERNAL_PREFIX,
    IS_FAILING,
    OWN_MARK,
    POOL,
    RELAYING,
    able_rules,
    fast_rule,
    health_rules,
    last_rules,
    quoted,
    repeat_rules,
    route_rules,
    slot_rules,
    socket_beside,
    version_rules,
)

MESH_ENV = "KYTHERA_MESH_FD"
HELLO_S = 5
"""A client of the mesh port that has not said which service it wants by then is a stranger."""
JOINER, JOIN_PATH = "join-", "/join"
"""Who has a token alone may ask for one thing alone."""
PEER_HEADER = "X-Kythera-Peer"
INNER, TUNNEL = "to_", "tunnel_"
"""How the sections begin that carry streams between machines."""
HERE = "here"
HERE_RELAY = "newest_here"
"""Takes requests of peers from a process that drains to the newest one: not by RELAY, which knows
ways to other machines."""
FAR_CHECKS = "peers_far"
"""Holds the health of far machines, which are given more time than a way's own servers."""
NEAR_CHECK_MS, FAR_CHECK_MS = 1_000, 5_000
"""How long a health check may take: a machine that hangs is out after two and a pause; a far one
needs several round trips of some hundred milliseconds."""
PEER_POOL = "pool-max-conn -1 pool-purge-delay 30s"
"""A handshake is dearer than an idle connection; a peer closes later (`keep_alive_s`)."""
PEER_ERRORS_MAX = 3
"""Connections in a row that fail before a peer is down without waiting for its next check."""
TRIES_MAX = 12
"""How often a request is tried: until then a dead machine stays on the ring, and is chosen again."""
RING = ("balance hash var(txn.worker)", "hash-type consistent djb2 avalanche")
STREAM = ("  mode tcp", "  no option http-no-delay")
STREAM_DOOR = (*STREAM, "  no option idle-close-on-response")
"""A section of bytes, not requests; HAProxy warns of each default that it has to ignore."""
HOME_WORKERS_MAX = 20_000
"""How many workers' visitors are counted on their way home; the least recently seen is dropped."""
WORKER_BYTES_MAX = 128
MACHINE_BYTES_MAX = 64
PEERS_MAX = 4_096
COUNT_S = 3_600


def mesh_lines(
    plan: FrontPlan, mesh: MeshFiles, limits: Limits, room: Room, runtime_socket: Path
) -> Iterator[str]:
    """Yield all sections that a machine of a fleet has and a machine without a mesh door has not."""
    data = [DATA] if mesh.pass_key else []
    services = [HTTP, CONTROL, *data, *mesh.streams]
    yield from _passthrough(services, runtime_socket)
    yield from _here(mesh, limits, runtime_socket)
    yield from _control(mesh, runtime_socket)
    for service, address in mesh.streams.items():
        yield from _stream(service, address, mesh, runtime_socket)
    if data:
        yield from _data(plan, mesh, limits, room, runtime_socket)
    yield from _far_checks(plan, mesh, limits)
    queue = list(far_queue_rules(limits, room))
    yield from _home(plan, mesh, limits, queue, runtime_socket)
    yield from _away(plan, mesh, limits, queue, runtime_socket)
    for tunnel in plan.tunnels:
        yield from _tunnel(tunnel, mesh, limits)


def inner_backend(service: str) -> str:
    """Return the backend that hands an encrypted stream to a service's inner door."""
    return f"{INNER}{service}"


def tunnel_section(tunnel: Tunnel) -> str:
    """Return the name of a tunnel's section."""
    return f"{TUNNEL}{tunnel.name}"


def is_stream(backend: str) -> bool:
    """Tell whether a backend carries what may stand for ever between two machines."""
    passing = (inner_backend(HTTP), inner_backend(DATA))
    return backend.startswith((INNER, TUNNEL)) and backend not in passing


def _passthrough(services: Sequence[str], runtime_socket: Path) -> Iterator[str]:
    names = " ".join(f"{service}.kythera" for service in services)
    yield "frontend mesh"
    yield from STREAM_DOOR
    yield f"  bind fd@${{{MESH_ENV}}}"
    yield f"  tcp-request inspect-delay {HELLO_S}s"
    yield (
        f"  tcp-request content accept if {{ req.ssl_hello_type 1 }} {{ req.ssl_sni -m str {names} }}"
    )
    yield "  tcp-request content reject"
    for service in services:
        yield f"  use_backend {inner_backend(service)} if {{ req.ssl_sni -m str {service}.kythera }}"
    for service in services:
        yield f"backend {inner_backend(service)}"
        yield from STREAM
        yield f"  server inner {_unix(runtime_socket, service)}"


def _unix(runtime_socket: Path, name: str) -> str:
    return quoted(f"unix@{socket_beside(runtime_socket, name)}")


def _inner_door(service: str, mesh: MeshFiles, runtime_socket: Path) -> Iterator[str]:
    """Yield what asks for a certificate of the fleet, and notes whose it is."""
    yield (
        f"  bind {_unix(runtime_socket, service)} mode 600 ssl crt {quoted(mesh.certificate)} "
        f"ca-file {quoted(mesh.authority)} verify required ssl-min-ver TLSv1.3"
    )
    yield "  tcp-request session set-var(sess.peer) ssl_c_s_dn(cn) if { ssl_fc }"


MEMBER = "{ var(sess.peer),map_str(members.map) -m found }"


def _here(mesh: MeshFiles, limits: Limits, runtime_socket: Path) -> Iterator[str]:
    """Requests of other machines' visitors, and of our own that are at home here."""
    rule = "  http-request set-var"
    yield f"frontend {HERE}"
    yield f"  bind {_unix(runtime_socket, HERE)} mode 600"
    yield from _inner_door(HTTP, mesh, runtime_socket)
    yield f"  stick-table type string len {MACHINE_BYTES_MAX} size {PEERS_MAX} store http_req_cnt"
    # At each request: a connection outlives its machine's membership.
    yield f"  http-request reject if {{ ssl_fc }} !{MEMBER}"
    yield from health_rules()
    yield from able_rules()
    yield "  http-request track-sc0 var(sess.peer) if { ssl_fc }"
    yield f"{rule}(sess.scheme) req.hdr(X-Forwarded-Proto)"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}(txn.ray) req.hdr(CF-Ray)"
    yield from repeat_rules()
    yield from slot_rules()
    relaying = f"if {{ stopping }} {RELAYING}"
    yield f"{rule}(txn.slot) str({HERE_RELAY}) {relaying}"
    yield f"  http-request allow {relaying}"
    yield fast_rule(IS_FAILING)
    yield from route_rules()
    refuse = f"  http-request return status {REFUSED_STATUS} hdr {REFUSED_MARK} 1"
    # A host we do not know yet is one that the other has heard of before us.
    yield f"{refuse} unless {{ var(txn.slot) -m beg {SLOT_LETTER} }}"
    yield f"{refuse} if {IS_FAILING}"
    yield from version_rules()
    yield "  use_backend %[var(txn.slot)]"
    yield from _here_answers()
    yield f"backend {HERE_RELAY}"
    yield f"  server newest {_unix(runtime_socket, HERE)} {POOL}"


def _here_answers() -> Iterator[str]:
    """What never reached a worker is said to be refused; all else is the visitor's."""
    refused = f"{{ status 503 {REFUSED_STATUS} }} {{ res.hdr({REFUSED_MARK}) -m found }}"
    yield f"  http-response return status {REFUSED_STATUS} hdr {REFUSED_MARK} 1 if {refused}"
    yield f"  http-response del-header {INTERNAL_PREFIX} -m beg"
    no_cell = f"{{ status 503 }} {{ res.hdr({OWN_MARK}) -m found }}"
    rule = "  http-after-response"
    yield f"{rule} set-header {REFUSED_MARK} 1 if {no_cell}"
    yield f"{rule} set-status {REFUSED_STATUS} if {no_cell}"
    yield from last_rules()


def _control(mesh: MeshFiles, runtime_socket: Path) -> Iterator[str]:
    joins = f"{{ var(sess.peer) -m beg {JOINER} }} {{ path {JOIN_PATH} }}"
    yield "frontend mesh_control"
    yield from _inner_door(CONTROL, mesh, runtime_socket)
    yield f"  http-request reject unless {MEMBER} or {joins}"
    yield f"  http-request del-header {INTERNAL_PREFIX} -m beg"
    yield f"  http-request set-header {PEER_HEADER} %[var(sess.peer)]"
    yield "  default_backend control"
    yield "backend control"
    # Never twice: it may have been done. And no connection is kept, so that none is closed on us.
    yield "  retry-on conn-failure"
    yield "  http-reuse never"
    yield "  option http-server-close"
    yield f"  server control {quoted('unix@' + mesh.control_socket)}"


def _data(
    plan: FrontPlan, mesh: MeshFiles, limits: Limits, room: Room, runtime_socket: Path
) -> Iterator[str]:
    """What other machines' cells reach here, and how this machine's reach what others keep."""
    door = _inner_door(DATA, mesh, runtime_socket)
    yield from home_lines(door, plan.servers.get(DATA_SLOT, ()), mesh.pass_key, MEMBER, limits)
    tls = [(peer, _tls(peer.name, DATA, mesh)) for peer in plan.peers]
    yield from asking_lines(mesh.pass_key, limits, room, tls)


def _stream(service: str, address: str, mesh: MeshFiles, runtime_socket: Path) -> Iterator[str]:
    yield f"frontend mesh_{service}"
    yield from STREAM_DOOR
    yield from _inner_door(service, mesh, runtime_socket)
    yield f"  tcp-request content reject unless {MEMBER}"
    yield f"  default_backend local_{service}"
    yield f"backend local_{service}"
    yield from STREAM
    yield f"  server local {address}"


def _tls(peer: str, service: str, mesh: MeshFiles) -> str:
    """Return what follows a peer's address, whoever speaks to it."""
    return (
        f"ssl crt {quoted(mesh.certificate)} ca-file {quoted(mesh.authority)} verify required "
        f"verifyhost {peer}.kythera ssl-min-ver TLSv1.3 sni str({service}.kythera)"
    )


def _check(limits: Limits) -> str:
    return (
        f"check check-ssl check-sni {HTTP}.kythera inter {limits.peer_check_ms}ms fall 2 rise 1 "
        # A dead machine must not look idle to the ring until the next check.
        f"observe layer4 error-limit {PEER_ERRORS_MAX} on-error mark-down"
    )


def _checked(within_ms: int) -> Iterator[str]:
    yield f"  option httpchk GET {ABLE_PATH}"
    yield "  http-check disable-on-404"
    yield "  http-check expect status 200"
    yield f"  timeout check {within_ms}ms"


def _far_checks(plan: FrontPlan, mesh: MeshFiles, limits: Limits) -> Iterator[str]:
    yield f"backend {FAR_CHECKS}"
    yield from _checked(FAR_CHECK_MS)
    for peer in plan.peers:
        if not peer.same_site:
            tls = _tls(peer.name, HTTP, mesh)
            yield f"  server {peer.name} {peer.address} {tls} {_check(limits)}"


def _way(section: str, limits: Limits, connect_ms: int) -> Iterator[str]:
    yield f"backend {section}"
    for line in RING:
        yield f"  {line}"
    yield f"  hash-balance-factor {limits.home_load_factor}"
    yield from _checked(NEAR_CHECK_MS)
    yield "  option redispatch 1"
    yield f"  retries {TRIES_MAX}"
    yield f"  retry-on conn-failure empty-response {REFUSED_STATUS}"
    yield f"  timeout connect {connect_ms}ms"


def _peer(peer: PeerServer, mesh: MeshFiles, limits: Limits) -> str:
    health = _check(limits) if peer.same_site else f"track {FAR_CHECKS}/{peer.name}"
    return (
        f"  server {peer.name} {peer.address} id {peer.number} {_tls(peer.name, HTTP, mesh)} "
        f"{health} {PEER_POOL}"
    )


def _myself(plan: FrontPlan, runtime_socket: Path) -> str:
    return f"  server {plan.me} {_unix(runtime_socket, HERE)} id {plan.number} {POOL}"


def _home(
    plan: FrontPlan, mesh: MeshFiles, limits: Limits, queue: list[str], runtime_socket: Path
) -> Iterator[str]:
    """The site's machines, this one too: each worker's name falls to one of them."""
    yield from _way(HOME, limits, limits.peer_connect_ms)
    yield (
        f"  stick-table type string len {WORKER_BYTES_MAX} size {HOME_WORKERS_MAX} "
        f"expire {COUNT_S}s store http_req_rate({round(limits.rare_window_s * 1000)}ms),conn_cur,gpc0"
    )
    yield "  http-request track-sc1 var(txn.worker)"
    yield from queue
    for peer in plan.peers:
        if peer.same_site:
            yield _peer(peer, mesh, limits)
    if plan.me:
        yield _myself(plan, runtime_socket)


def _away(
    plan: FrontPlan, mesh: MeshFiles, limits: Limits, queue: list[str], runtime_socket: Path
) -> Iterator[str]:
    """The others of the site; when none is able the next nearest; when nobody is, ourselves."""
    # Only where all are far is there time for a far handshake over a lossy link.
    near = any(peer.same_site for peer in plan.peers)
    connect_ms = limits.peer_connect_ms if near else limits.peer_answer_ms
    yield from _way(AWAY, limits, connect_ms)
    yield (
        f"  stick-table type string len {WORKER_BYTES_MAX} size {HOME_WORKERS_MAX} "
        f"expire {COUNT_S}s store conn_cur,gpc0"
    )
    yield "  http-request track-sc1 var(txn.worker)"
    yield from queue
    for peer in plan.peers:
        yield _peer(peer, mesh, limits) + ("" if peer.same_site else " backup")
    if plan.me:
        yield f"{_myself(plan, runtime_socket)} backup"


def _tunnel(tunnel: Tunnel, mesh: MeshFiles, limits: Limits) -> Iterator[str]:
    yield f"listen {tunnel_section(tunnel)}"
    yield from STREAM_DOOR
    yield f"  bind {tunnel.listen}"
    yield f"  timeout connect {limits.peer_answer_ms}ms"
    yield f"  server peer {tunnel.address} {_tls(tunnel.peer, tunnel.service, mesh)}"
