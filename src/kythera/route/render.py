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
from kythera.route.mesh import MeshFiles
from kythera.route.pages import CONTENT_TYPES, FORMS, PAGES, REFUSED_MARK, page_rows
from kythera.route.plan import MAPS, NOWHERE, ROUTED, SLOT_LETTER, FrontPlan, Server, slot_name
from kythera.route.weights import BUCKETS

CONFIG = "haproxy.cfg"
HTTP_ENV = "KYTHERA_HTTP_FD"
HTTPS_ENV = "KYTHERA_HTTPS_FD"
POOL = "pool-max-conn -1 pool-purge-delay 2s"
"""Said for every server: a server added at run time has no pool of idle connections otherwise.
The delay is below workerd's own (5 s), so that HAProxy is the one who closes."""
CONNECTION_REQUESTS = 256
"""A connection to a cell is given up after about so many requests, so that a process added to
the same listening socket gets its part; dynamic servers refuse `max-reuse`."""
KEY_HEADER = "Cloudflare-Workers-Version-Key"
OVERRIDES_HEADER = "Cloudflare-Workers-Version-Overrides"
OVERRIDES_MAX = 4
"""How many workers one request can name in OVERRIDES_HEADER."""
HOST = "req.hdr(host),host_only,rtrim(.),lower"
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
INTERNAL_PREFIX = "x-kythera-"
UNCAUGHT_BODY = "Internal Server Error"
"""All that workerd answers when a worker throws."""
OWN_MARK = "x-kythera-own"

RELAY = f"{SLOT_LETTER}0000"
"""The backend by which a process that drains hands its clients' requests to the newest one.
HAProxy 2.6 lets nobody change the servers of a process that is stopping, but its maps."""
RELAY_MAP = "relay"
RELAY_ON = "on"
"""The key whose presence in RELAY_MAP makes a stopping process relay. It is set after a reload
alone: when all of HAProxy stops there is nobody to hand to."""
RELAYING = f"{{ str({RELAY_ON}),map_str({RELAY_MAP}.map) -m found }}"


@dataclass(frozen=True)
class FrontOptions:
    """What the plan does not say: this machine's settings for its front door."""

    site: str = "local"
    limits: Limits = field(default_factory=Limits)
    mesh: MeshFiles | None = None
    """The door for the fleet's other machines; None: this machine has none."""
    tls_certificates: str = ""
    """A PEM file or a directory of them; empty means no HTTPS door."""
    threads: int = 1
    descriptors_max: int = 20_000
    """The hard RLIMIT_NOFILE that HAProxy will have."""
    haproxy: str = "haproxy"

    def connections_max(self, slots: int) -> int:
        """Return how many clients fit: each needs a descriptor, and one more for its cell."""
        room = (self.descriptors_max - DESCRIPTORS_SPARE - slots) // 2
        return max(100, min(CONNECTIONS_MAX, int(room * 0.9)))


def quoted(text: str | Path) -> str:
    """Return a word for HAProxy's configuration, in double quotes."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


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
    yield from _frontend(options)
    yield from _relay(options.limits, relay_socket(runtime_socket))
    for index in range(plan.slots):
        slot = slot_name(index)
        yield f"backend {slot}"
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
        "  retries 3",
        "  retry-on conn-failure empty-response",
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
            yield f"  http-error status {page.status} {_answer(str(page.status), limits)}"


def _answer(key: str, limits: Limits) -> str:
    """Return a reply that chooses its form by what the client accepts."""
    # Named twice because an error may precede all rules, and then no variable is set.
    form = f"var(txn.accept,-),map_sub(page_forms.map,text),concat(/{key})"
    headers = f"hdr Cache-Control no-store hdr {OWN_MARK} 1"
    if key in ("502", "503"):
        headers += f" hdr Retry-After {limits.retry_after_s}"
    return (
        f'content-type text/plain lf-string "%[{form},map_str(page_heads.map)]'
        f'%[var(txn.ray,-)]%[{form},map_str(page_tails.map)]\\n" {headers}'
    )


def _frontend(options: FrontOptions) -> Iterator[str]:
    yield "frontend door"
    yield f"  bind fd@${{{HTTP_ENV}}}"
    if options.tls_certificates:
        yield (
            f"  bind fd@${{{HTTPS_ENV}}} ssl crt {quoted(options.tls_certificates)} "
            "alpn h2,http/1.1"
        )
    yield from _session_rules(options.site)
    yield from _request_rules(options.site)
    yield from _slot_rules()
    yield f"  http-request set-var(txn.slot) str({RELAY}) if {{ stopping }} {RELAYING}"
    yield from _way_rules()
    yield from _cell_answer_rules(options.limits)
    yield from _last_rules()


def _relay(limits: Limits, path: Path) -> Iterator[str]:
    """Where requests arrive that an older process began: its headers stand, its maps do not."""
    address = quoted(f"unix@{path}")
    rule = "  http-request set-var"
    yield "frontend relay"
    yield f"  bind {address} mode 600"
    yield f"{rule}(sess.scheme) req.hdr(X-Forwarded-Proto)"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}(txn.ray) req.hdr(CF-Ray)"
    yield from _repeat_rules()
    yield from _slot_rules()
    yield from _way_rules()
    yield f"  http-response del-header {OWN_MARK}"  # A cell cannot claim to be us.
    yield from _refused_rules(limits)
    yield from _last_rules()
    yield f"backend {RELAY}"
    yield f"  server newest {address} {POOL}"


def relay_socket(runtime_socket: Path) -> Path:
    """Return where the newest process takes over requests from those that drain."""
    return runtime_socket.with_name(f"{runtime_socket.stem}-relay.sock")


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


def _request_rules(site: str) -> Iterator[str]:
    """What every request needs."""
    rule = "  http-request set-var"
    yield f"{rule}(txn.accept) req.fhdr(accept)"
    yield f"{rule}-fmt(txn.ray) {RAY_DIGITS}-{ray_suffix(site)}"
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
    yield from _repeat_rules()


def _repeat_rules() -> Iterator[str]:
    # What a cell may have begun is repeated only when that is harmless by definition.
    yield "  http-request disable-l7-retry unless { method GET HEAD OPTIONS }"
    yield (
        f"  http-request set-header Connection close if {{ rand({CONNECTION_REQUESTS}) 0 }} "
        "!{ req.hdr(upgrade) -m found }"
    )


def _slot_rules() -> Iterator[str]:
    yield f"  http-request set-var(txn.slot) {HOST},map_str(hosts.map,{ROUTED}{NOWHERE})"


def _way_rules() -> Iterator[str]:
    """From the host's slot to a cell; for most requests `allow` skips all the rest."""
    yield (
        f"  http-request allow if {{ var(txn.slot) -m beg {SLOT_LETTER} }} "
        "!{ var(txn.slot),map_str(apart.map) -m found } "
        f"!{{ req.fhdr({KEY_HEADER}) -m found }} !{{ req.fhdr({OVERRIDES_HEADER}) -m found }}"
    )
    yield from _routing_rules()
    yield from _version_rules()
    yield "  use_backend %[var(txn.slot)]"


def _routing_rules() -> Iterator[str]:
    """Find the slot of a host that routes may claim, or refuse."""
    routed = f"if {{ var(txn.slot) -m beg {ROUTED} }}"
    unless_found = f"{routed} !{{ var(txn.route) -m found }}"
    rule = "  http-request set-var"
    yield f'{rule}-fmt(txn.url) "%[var(sess.scheme)]://%[{HOST}]%[pathq]" {routed}'
    yield f"{rule}(txn.route) var(txn.url),map_str(routes_exact.map) {routed}"
    yield f"{rule}(txn.route) var(txn.url),map_beg(routes_prefix.map) {unless_found}"
    yield f"{rule}(txn.route) var(txn.url),map_reg(routes_wild.map) {unless_found}"
    yield f"{rule}(txn.route) var(txn.slot),bytes({len(ROUTED)}) {unless_found}"
    yield f"{rule}(txn.slot) var(txn.route) {routed}"
    refuse = "  http-request return status"
    # Whatever is not the name of a slot, also nothing at all (no Host), leads nowhere.
    yield f"{refuse} 404 default-errorfiles unless {{ var(txn.slot) -m beg {SLOT_LETTER} }}"
    yield f"{refuse} 503 default-errorfiles if {{ var(txn.slot),map_str(apart.map) -m found }}"


def _version_rules() -> Iterator[str]:
    """A version key sticks, an override pins; neither can name what is not deployed."""
    rule = "  http-request set-var"
    bucket = f"req.fhdr({KEY_HEADER}),xxh32,mod({BUCKETS}),add({BUCKETS})"
    yield f"{rule}(txn.bucket) {bucket}"
    yield (
        f"{rule}(txn.server) var(txn.slot),concat(/,txn.bucket),map_beg(sticky.map) "
        "if { var(txn.bucket) -m found }"
    )
    for index in range(1, OVERRIDES_MAX + 1):
        yield f"{rule}(txn.pin) req.hdr({OVERRIDES_HEADER},{index})"
        yield (
            f"{rule}(txn.server) var(txn.slot),concat(/,txn.pin),map_str(pins.map) "
            "if { var(txn.pin) -m found }"
        )


def _refused_rules(limits: Limits) -> Iterator[str]:
    yield (
        f"  http-response return status 503 {_answer('503', limits)} "
        f"if {{ status 503 }} {{ res.hdr({REFUSED_MARK}) -m found }}"
    )


def _cell_answer_rules(limits: Limits) -> Iterator[str]:
    """What a cell's answer says to us alone."""
    # workerd's own answer for an uncaught exception is known by what it lacks; a worker's would
    # have a type. Only such an answer's few bytes are waited for and looked at.
    bare = (
        f"{{ status 500 }} {{ res.hdr(content-length) -m str {len(UNCAUGHT_BODY)} }} "
        "!{ res.hdr(content-type) -m found }"
    )
    wait = f"time {limits.request_head_s}s at-least {len(UNCAUGHT_BODY)}"
    yield f"  http-response wait-for-body {wait} if {bare}"
    # HEAD has no body to look at.
    for proof in (f"{{ res.body -m str {quoted(UNCAUGHT_BODY)} }}", "{ method HEAD }"):
        yield (f"  http-response return status 500 {_answer('1101', limits)} if {bare} {proof}")
    yield from _refused_rules(limits)
    yield f"  http-response del-header {INTERNAL_PREFIX} -m beg"


def _last_rules() -> Iterator[str]:
    """What every answer gets, whoever made it; our own are finished here."""
    own = f"{{ status ge 400 }} {{ res.hdr({OWN_MARK}) -m found }}"
    rule = "  http-after-response"
    yield f"{rule} set-header CF-Ray %[var(txn.ray)] if {{ var(txn.ray) -m found }}"
    form = "var(txn.accept,-),map_sub(page_forms.map,text)"
    yield f"{rule} set-header Content-Type %[{form},map_str(page_types.map)] if {own}"
    # A cell that ended in the middle is, to the visitor, one that must be asked again.
    yield f"{rule} set-status 503 if {{ status 502 }} {own}"
    yield f"{rule} del-header {OWN_MARK} if {own}"


def ray_suffix(site: str) -> str:
    """Return the site as the end of a ray id."""
    return re.sub(r"[^A-Za-z0-9]", "", site) or "local"


def _blob(site: str) -> dict[str, str]:
    return {"colo": site, "httpProtocol": "%[var(sess.protocol)]", "clientTcpRtt": RTT}


def _json(fields: dict[str, str]) -> str:
    """Return a JSON object as a quoted word; values are log-format."""
    text = json.dumps(fields, separators=(",", ":")).replace(f'"{RTT}"', RTT)
    return quoted(text)
