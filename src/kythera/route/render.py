"""The plan as files: HAProxy's configuration and its maps.

Pure. Promises: equal plans give equal files; the files alone, read by a fresh HAProxy or by a
reload, are the plan. Maps are named relative to the folder (`-C`), so that a state folder's own
path never needs quoting inside an expression.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kythera.model.limits import Limits
from kythera.route.admission import (
    Room,
    buffer_bytes,
    connection_rules,
    headers_readable,
    queue_rules,
    refusing_backends,
    request_rules,
)
from kythera.route.mesh import MeshFiles
from kythera.route.mesh_render import mesh_lines
from kythera.route.pages import CONTENT_TYPES, FORMS, PAGES, QUEUE_STATUS, page_rows
from kythera.route.plan import (
    APART_MARK,
    LOCAL,
    MAPS,
    ROUTED,
    SLOT_LETTER,
    FrontPlan,
    Server,
    slot_name,
)
from kythera.route.rules import (
    APART_ROW,
    INTERNAL_PREFIX,
    IS_APART,
    IS_FAILING,
    OWN_MARK,
    POOL,
    RELAY,
    RELAY_MAP,
    RELAYING,
    answer,
    fast_rule,
    health_rules,
    last_rules,
    quoted,
    refused_rules,
    repeat_rules,
    route_rules,
    slot_rules,
    socket_beside,
    version_rules,
)
from kythera.route.services import NO_CONNECT, answer_lines, door_lines, relay_lines, slot_line

CONFIG = "haproxy.cfg"
HTTP_ENV = "KYTHERA_HTTP_FD"
HTTPS_ENV = "KYTHERA_HTTPS_FD"
RAY_DIGITS = "%[rand,bytes(4,4),hex,lower]" * 2
RTT = "%[var(sess.rtt,0)]"
DESCRIPTORS_SPARE = 1_000
CONNECTIONS_MAX = 200_000

SET_HEADERS = (
    ("CF-Connecting-IP", "%[var(sess.address)]"),
    ("CF-Ray", "%[var(txn.ray)]"),
    ("CF-Blob", "%[var(sess.blob)]"),
    ("X-Forwarded-Proto", "%[var(sess.scheme)]"),
)
"""Ours alone: a client's own are replaced."""
UNSAID_HEADERS = ("X-Forwarded-For", "X-Real-IP")
"""What a client claims of these is taken away. We do not say them ourselves: CF-Connecting-IP has
the address, and each header costs a cell 3 % of a hello."""
CF_PREFIX = "cf-"
"""Headers that workers believe to come from the platform: a client's are never passed on, also
those that we do not set (such as CF-IPCountry)."""
RETRIES = 1
"""A loop asked for by GET burns its limit that many times more (`python -m bench loops`: whoever is
inside a cell that dies is answered by the next one all the same)."""
FAILED_FORMAT = "%ST %s %[var(txn.ray)]"
"""Status, server, ray id; read by `node/front_log.py`."""
UNCAUGHT_BODY = "Internal Server Error"
"""All that workerd answers when a worker throws."""
UNCAUGHT_PROOFS = (f"{{ res.body -m str {quoted(UNCAUGHT_BODY)} }}", "{ method HEAD }")
"""HEAD has no body to look at."""


@dataclass(frozen=True)
class FrontOptions:
    """What the plan does not say: this machine's settings for its front door."""

    site: str = "local"
    limits: Limits = field(default_factory=Limits)
    services: bool = False
    """Whether there is an inner door, for this machine's own cells."""
    mesh: MeshFiles | None = None
    """The door for the fleet's other machines; None: this machine has none."""
    tls_certificates: str = ""
    """A PEM file or a directory of them; empty means no HTTPS door."""
    threads: int = 1
    descriptors_max: int = 20_000
    """The hard RLIMIT_NOFILE that HAProxy will have."""
    haproxy: str = "haproxy"

    def connections_max(self, slots: int) -> int:
        """Return how many connections fit: each needs a descriptor, and one more for its cell."""
        room = (self.descriptors_max - DESCRIPTORS_SPARE - slots) // 2
        return max(100, min(CONNECTIONS_MAX, int(room * 0.9)))

    def room(self, slots: int) -> Room:
        """Return how these are shared out."""
        return Room.of(self.connections_max(slots), self.limits)


def server_words(server: Server) -> str:
    """Return what follows a server's address, equal in the file and on the socket."""
    return f"{POOL} weight {server.weight}"


def render_front(plan: FrontPlan, options: FrontOptions, runtime_socket: Path) -> dict[str, bytes]:
    """Return file name to content, for all files HAProxy reads."""
    heads, tails = page_rows()
    texts = {
        CONFIG: "\n".join(_config(plan, options, runtime_socket)) + "\n",
        "page_heads.map": rows_text(heads),
        "page_tails.map": rows_text(tails),
        f"{RELAY_MAP}.map": "",
        "page_forms.map": rows_text(FORMS),
        "page_types.map": rows_text(CONTENT_TYPES),
    }
    texts |= {f"{name}.map": rows_text(plan.maps[name]) for name in MAPS}
    return {name: text.encode() for name, text in texts.items()}


def rows_text(rows: dict[str, str]) -> str:
    """Return a map's rows as HAProxy reads them: key, blank, value."""
    return "".join(f"{key} {value}\n" for key, value in rows.items())


def _config(plan: FrontPlan, options: FrontOptions, runtime_socket: Path) -> Iterator[str]:
    yield "# Written by Kythera from plan.json; changes made here are lost."
    yield from _global(plan, options, runtime_socket)
    yield from _defaults(options.limits)
    room = options.room(plan.slots)
    yield from _frontend(options, room, runtime_socket)
    yield from refusing_backends(options.limits, shared=bool(options.tls_certificates))
    yield from _relay(options, runtime_socket)
    if options.services:
        yield from _services(options, room, runtime_socket)
    if options.mesh is not None:
        yield from mesh_lines(plan, options.mesh, options.limits, room, runtime_socket)
    for index in range(plan.slots):
        slot = slot_name(index)
        yield f"backend {slot}"
        if options.services:
            yield slot_line(options.limits)
        yield from queue_rules(options.limits, room)
        yield "  use-server %[var(txn.server)] if { var(txn.server) -m found }"
        for server in plan.servers.get(slot, ()):
            yield (f"  server {server.name} {quoted('unix@' + server.path)} {server_words(server)}")


def _global(plan: FrontPlan, options: FrontOptions, runtime_socket: Path) -> Iterator[str]:
    yield "global"
    yield (
        f"  stats socket {quoted(f'unix@{runtime_socket}')} "
        "mode 600 level admin expose-fd listeners"
    )
    yield "  stats timeout 60s"
    yield f"  hard-stop-after {options.limits.front_hard_stop_s}s"
    yield f"  maxconn {options.connections_max(plan.slots)}"
    yield f"  nbthread {options.threads}"
    yield f"  tune.bufsize {buffer_bytes(options.limits)}"
    yield f"  tune.http.maxhdr {headers_readable(options.limits)}"
    # A limit that cannot be raised costs connections at the very top, never the start.
    yield "  no strict-limits"
    yield "  ssl-default-bind-options ssl-min-ver TLSv1.2"
    yield "  tune.ssl.default-dh-param 2048"


def _defaults(limits: Limits) -> Iterator[str]:
    yield from (
        "defaults",
        "  mode http",
        "  balance roundrobin",
        "  http-reuse always",
        "  option http-no-delay",
        "  option idle-close-on-response",
        "  option dontlognull",
        # Else who asks and leaves keeps its place until the worker answers.
        "  option abortonclose",
        # A cell that died may have died of this very request: it may take one more along, no more.
        f"  retries {RETRIES}",
        "  retry-on conn-failure empty-response",
        # A request that is tried again gives its place back, and waits in the queue as others do.
        "  option redispatch 1",
        f"  timeout connect {limits.request_head_s}s",
        f"  timeout queue {limits.request_head_s}s",
        f"  timeout http-request {limits.request_head_s}s",
        f"  timeout http-keep-alive {limits.keep_alive_s}s",
        f"  timeout client {limits.client_idle_s}s",
        f"  timeout client-fin {limits.request_head_s}s",
        f"  timeout server {limits.response_wait_s}s",
        f"  timeout tunnel {limits.tunnel_idle_s}s",
    )
    for page in PAGES:
        if not page.key:
            yield f"  http-error status {page.status} {answer(str(page.status), limits)}"
    yield f"  http-error status {QUEUE_STATUS} {answer('queue', limits)}"


def _frontend(options: FrontOptions, room: Room, runtime_socket: Path) -> Iterator[str]:
    yield "frontend door"
    # What fails is told, by ray id and server; what goes well costs nothing and says nothing.
    yield f"  log {quoted(str(socket_beside(runtime_socket, 'failed')))} format raw local0"
    yield "  option dontlog-normal"
    yield f"  log-format {quoted(FAILED_FORMAT)}"
    yield f"  bind fd@${{{HTTP_ENV}}}"
    if options.tls_certificates:
        yield (
            f"  bind fd@${{{HTTPS_ENV}}} ssl crt {quoted(options.tls_certificates)} "
            "alpn h2,http/1.1"
        )
    yield from connection_rules(room)
    yield from _session_rules(options.site)
    yield NO_CONNECT
    yield from _named_rules(options.site)
    yield from request_rules(options.limits, room, shared=bool(options.tls_certificates))
    yield from _header_rules()
    yield from slot_rules()
    yield f"  http-request set-var(txn.slot) str({RELAY}) if {{ stopping }} {RELAYING}"
    yield from _way_rules(forwards=options.mesh is not None)
    yield from _cell_answer_rules(options.limits)
    yield from last_rules()


def _relay(options: FrontOptions, runtime_socket: Path) -> Iterator[str]:
    """Where requests arrive that an older process began: its headers stand, its maps do not."""
    limits = options.limits
    address = quoted(f"unix@{socket_beside(runtime_socket, 'relay')}")
    rule = "  http-request set-var"
    yield "frontend relay"
    yield f"  bind {address} mode 600"
    yield f"{rule}(sess.scheme) req.hdr(X-Forwarded-Proto)"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}(txn.ray) req.hdr(CF-Ray)"
    yield from repeat_rules()
    yield from slot_rules()
    yield from _way_rules(forwards=options.mesh is not None)
    yield f"  http-response del-header {OWN_MARK}"  # A cell cannot claim to be us.
    yield from refused_rules(limits)
    yield from last_rules()
    yield f"backend {RELAY}"
    yield f"  server newest {address} {POOL}"


def _services(options: FrontOptions, room: Room, runtime_socket: Path) -> Iterator[str]:
    """The inner door, and how a process that drains hands over what comes by it."""
    yield "frontend services"
    yield f"  log {quoted(str(socket_beside(runtime_socket, 'failed')))} format raw local0"
    yield "  option dontlog-normal"
    yield f"  log-format {quoted(FAILED_FORMAT)}"
    yield from door_lines(room, runtime_socket)
    yield from _way_rules(forwards=options.mesh is not None)
    bare, wait = _bare_answer(options.limits)
    yield f"  http-response wait-for-body {wait} if {bare}"
    yield from answer_lines(options.limits, tuple(f"{bare} {proof}" for proof in UNCAUGHT_PROOFS))
    yield from relay_lines(runtime_socket)


def _session_rules(site: str) -> Iterator[str]:
    """What holds for all requests of a connection is worked out once, when it opens."""
    rule = "  tcp-request session set-var"
    tls = {"tlsVersion": "%[ssl_fc_protocol]", "tlsCipher": "%[ssl_fc_cipher]"}
    no_tls = {"tlsVersion": "none", "tlsCipher": "NONE"}
    # As text once, instead of formatted for each header of each request.
    yield f"{rule}-fmt(sess.address) %[src]"
    yield f"{rule}(sess.scheme) ssl_fc,iif(https,http)"
    yield f"{rule}(sess.protocol) str(HTTP/1.1)"
    yield f"{rule}(sess.protocol) str(HTTP/2) if {{ ssl_fc_alpn h2 }}"
    # Absent where the kernel does not tell: the number in the JSON must not be.
    yield f"{rule}(sess.rtt) fc_rtt(ms)"
    yield f"{rule}-fmt(sess.blob) {_json(_blob(site) | tls)} if {{ ssl_fc }}"
    yield f"{rule}-fmt(sess.blob) {_json(_blob(site) | no_tls)} unless {{ ssl_fc }}"


def _named_rules(site: str) -> Iterator[str]:
    """What every request needs, also one that is refused."""
    rule = "  http-request set-var"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}-fmt(txn.ray) {RAY_DIGITS}-{ray_suffix(site)}"


def _header_rules() -> Iterator[str]:
    """What every request says to a cell."""
    yield f"  http-request del-header {INTERNAL_PREFIX} -m beg"
    yield f"  http-request del-header {CF_PREFIX} -m beg"
    for name in UNSAID_HEADERS:
        yield f"  http-request del-header {name}"
    for name, value in SET_HEADERS:
        # `add` is cheaper than `set`, which looks for the client's own first.
        action = "add" if name.lower().startswith(CF_PREFIX) else "set"
        yield f"  http-request {action}-header {name} {value}"
    # Each header costs a cell 3 % of a hello: without this one workerd takes `http`.
    yield "  http-request set-header X-Kythera-Scheme https if { ssl_fc }"
    yield from repeat_rules()


def _way_rules(*, forwards: bool) -> Iterator[str]:
    """From the host's slot to a cell, or to another machine."""
    yield fast_rule(IS_APART)
    yield from health_rules(f"{{ var(txn.slot) -m beg {ROUTED} }}")
    yield from route_rules()
    refuse, rule = "  http-request return status", "  http-request set-var"
    yield f"{refuse} 404 default-errorfiles unless {{ var(txn.slot) -m beg {SLOT_LETTER} }}"
    if forwards:
        yield f"{rule}(txn.apart) {APART_ROW}"
        yield f"{refuse} 503 default-errorfiles if {{ var(txn.apart) -m beg {LOCAL} }}"
        apart = "if { var(txn.apart) -m found }"
        yield f"{rule}(txn.worker) var(txn.apart),word(2,{APART_MARK})"
        yield f"{rule}(txn.slot) var(txn.apart),word(1,{APART_MARK}) {apart}"
    else:
        yield f"{refuse} 503 default-errorfiles if {IS_FAILING}"
    yield from version_rules()
    yield "  use_backend %[var(txn.slot)]"


def _cell_answer_rules(limits: Limits) -> Iterator[str]:
    """What a cell's answer says to us alone."""
    # workerd's own answer for an uncaught exception is known by what it lacks; a worker's would
    # have a type. Only such an answer's few bytes are waited for and looked at.
    bare, wait = _bare_answer(limits)
    yield f"  http-response wait-for-body {wait} if {bare}"
    for proof in UNCAUGHT_PROOFS:
        yield (f"  http-response return status 500 {answer('1101', limits)} if {bare} {proof}")
    yield from refused_rules(limits)
    yield f"  http-response del-header {INTERNAL_PREFIX} -m beg"


def _bare_answer(limits: Limits) -> tuple[str, str]:
    """Return what an uncaught exception's answer looks like, and how to wait for its body."""
    bare = (
        f"{{ status 500 }} {{ res.hdr(content-length) -m str {len(UNCAUGHT_BODY)} }} "
        "!{ res.hdr(content-type) -m found }"
    )
    return bare, f"time {limits.request_head_s}s at-least {len(UNCAUGHT_BODY)}"


def ray_suffix(site: str) -> str:
    """Return the site as the end of a ray id."""
    return re.sub(r"[^A-Za-z0-9]", "", site) or "local"


def _blob(site: str) -> dict[str, str]:
    return {"colo": site, "httpProtocol": "%[var(sess.protocol)]", "clientTcpRtt": RTT}


def _json(fields: dict[str, str]) -> str:
    """Return a JSON object as a quoted word; values are log-format."""
    text = json.dumps(fields, separators=(",", ":")).replace(f'"{RTT}"', RTT)
    return quoted(text)
