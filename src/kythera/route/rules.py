"""Rules that several frontends share: from a request to its slot and cell, and what visitors read
when there is none.

Pure: lines of HAProxy's configuration. A request's worker is `txn.slot`; the map `apart` holds the
few slots that are not simply served by their cells, so that all others cost one look-up.
"""

from collections.abc import Iterator
from pathlib import Path

from kythera.model.limits import Limits
from kythera.route.pages import QUEUE_STATUS, REFUSED_MARK, REFUSED_STATUS
from kythera.route.plan import (
    APART,
    APART_MARK,
    DRAINING,
    NOWHERE,
    OVERLOADED,
    ROUTED,
    SLOT_LETTER,
)
from kythera.route.weights import BUCKETS

POOL = "pool-max-conn -1 pool-purge-delay 2s"
"""Said for every server: a server added at run time has no pool of idle connections otherwise.
The delay is below workerd's own (5 s), so that HAProxy is the one who closes."""
CONNECTION_REQUESTS = 1024
"""A connection to a cell is given up after about so many requests, so that a process added to
the same listening socket gets its part; dynamic servers refuse `max-reuse`."""
TRY_AGAIN = ("502", "503", "connections", "connections_per_client", "queue")
"""Pages that say when."""
KEY_HEADER = "Cloudflare-Workers-Version-Key"
OVERRIDES_HEADER = "Cloudflare-Workers-Version-Overrides"
OVERRIDES_MAX = 4
"""How many workers one request can name in OVERRIDES_HEADER."""
HOST = "req.hdr(host),host_only,rtrim(.),lower"
INTERNAL_PREFIX = "x-kythera-"
OWN_MARK = "x-kythera-own"

RELAY = f"{SLOT_LETTER}0000"
"""The backend by which a process that drains hands its clients' requests to the newest one.
HAProxy 2.6 lets nobody change the servers of a process that is stopping, but its maps."""
RELAY_MAP = "relay"
RELAY_ON = "on"
"""The key whose presence in RELAY_MAP makes a stopping process relay. It is set after a reload
alone: when all of HAProxy stops there is nobody to hand to."""
RELAYING = f"{{ str({RELAY_ON}),map_str({RELAY_MAP}.map) -m found }}"
HEALTH_PATH = "/.kythera/health"
ABLE_PATH = "/.kythera/able"
"""What peers ask; 404 is no failure but a wish, see `http-check disable-on-404`."""
APART_ROW = f"var(txn.slot),map_str({APART}.map)"
IS_APART = f"{{ {APART_ROW} -m found }}"
IS_FAILING = f"{{ {APART_ROW},word(3,{APART_MARK}) -m len ge 1 }}"
"""The worker's cell does not start here, whoever is to serve it."""


def quoted(text: str | Path) -> str:
    """Return a word for HAProxy's configuration, in double quotes."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def socket_beside(runtime_socket: Path, name: str) -> Path:
    """Return where HAProxy itself listens for `name`: in the runtime socket's folder."""
    return runtime_socket.with_name(f"{runtime_socket.stem}-{name}.sock")


def answer(key: str, limits: Limits) -> str:
    """Return a reply that chooses its form by what the client accepts."""
    # Named twice because an error may precede all rules, and then no variable is set.
    form = f"var(txn.accept,-),map_sub(page_forms.map,text),concat(/{key})"
    headers = f"hdr Cache-Control no-store hdr {OWN_MARK} 1"
    if key in TRY_AGAIN:
        headers += f" hdr Retry-After {limits.retry_after_s}"
    return (
        f'content-type text/plain lf-string "%[{form},map_str(page_heads.map)]'
        f'%[var(txn.ray,-)]%[{form},map_str(page_tails.map)]\\n" {headers}'
    )


def repeat_rules() -> Iterator[str]:
    """Say what may be tried again, and when a connection to a cell has been used enough."""
    # What a cell may have begun is repeated only when that is harmless by definition.
    yield "  http-request disable-l7-retry unless { method GET HEAD OPTIONS }"
    yield (
        f"  http-request set-header Connection close if {{ rand({CONNECTION_REQUESTS}) 0 }} "
        "!{ req.hdr(upgrade) -m found }"
    )


def slot_rules() -> Iterator[str]:
    """From the host to its slot, or to what opens with ROUTED."""
    yield f"  http-request set-var(txn.slot) {HOST},map_str(hosts.map,{ROUTED}{NOWHERE})"


def fast_rule(apart: str) -> str:
    """Let most requests skip all the rest; `apart` is true of those that need a closer look."""
    return (
        f"  http-request allow if {{ var(txn.slot) -m beg {SLOT_LETTER} }} !{apart} "
        f"!{{ req.fhdr({KEY_HEADER}) -m found }} !{{ req.fhdr({OVERRIDES_HEADER}) -m found }}"
    )


def route_rules() -> Iterator[str]:
    """Find the slot of a host that routes may claim. Whatever is then not the name of a slot, also
    nothing at all (no Host), leads nowhere."""
    routed = f"if {{ var(txn.slot) -m beg {ROUTED} }}"
    unless_found = f"{routed} !{{ var(txn.route) -m found }}"
    rule = "  http-request set-var"
    yield f'{rule}-fmt(txn.url) "%[var(sess.scheme)]://%[{HOST}]%[pathq]" {routed}'
    yield f"{rule}(txn.route) var(txn.url),map_str(routes_exact.map) {routed}"
    yield f"{rule}(txn.route) var(txn.url),map_beg(routes_prefix.map) {unless_found}"
    yield f"{rule}(txn.route) var(txn.url),map_reg(routes_wild.map) {unless_found}"
    yield f"{rule}(txn.route) var(txn.slot),bytes({len(ROUTED)}) {unless_found}"
    yield f"{rule}(txn.slot) var(txn.route) {routed}"


def health_rules(condition: str = "") -> Iterator[str]:
    """Tell load balancers whether this machine is to be asked."""
    asked = f"if {condition} {{ path {HEALTH_PATH} }}".replace("  ", " ")
    say = "content-type text/plain hdr Cache-Control no-store string"
    yield f'  http-request return status 503 {say} "draining\\n" {asked} {told(DRAINING)}'
    yield f'  http-request return status 200 {say} "ready\\n" {asked}'


def able_rules() -> Iterator[str]:
    """Tell peers the same in HAProxy's words: 404 lets requests that are inside end in peace."""
    for reason in (DRAINING, OVERLOADED):
        yield f"  http-request return status 404 if {{ path {ABLE_PATH} }} {told(reason)}"
    yield f"  http-request return status 200 if {{ path {ABLE_PATH} }}"


def told(reason: str) -> str:
    """Return the condition that the map `health` holds this row."""
    return f"{{ str({reason}),map_str(health.map) -m found }}"


def version_rules() -> Iterator[str]:
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


def refused_rules(limits: Limits) -> Iterator[str]:
    """Show our page for what the agent, or a machine that was to help, says of a cell."""
    yield (
        f"  http-response return status 503 {answer('503', limits)} "
        f"if {{ status 503 {REFUSED_STATUS} }} {{ res.hdr({REFUSED_MARK}) -m found }}"
    )


def last_rules() -> Iterator[str]:
    """What every answer gets, whoever made it; our own are finished here."""
    own = f"{{ status ge 400 }} {{ res.hdr({OWN_MARK}) -m found }}"
    rule = "  http-after-response"
    yield f"{rule} set-header CF-Ray %[var(txn.ray)] if {{ var(txn.ray) -m found }}"
    form = "var(txn.accept,-),map_sub(page_forms.map,text)"
    yield f"{rule} set-header Content-Type %[{form},map_str(page_types.map)] if {own}"
    # A cell that ended in the middle is, to the visitor, one that must be asked again.
    yield f"{rule} set-status 503 if {{ status {QUEUE_STATUS} 502 }} {own}"
    yield f"{rule} del-header {OWN_MARK} if {own}"
