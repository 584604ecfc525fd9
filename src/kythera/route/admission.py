"""What the front door refuses before a worker sees it, and how each refusal is counted.

Pure: lines of HAProxy's configuration. Promises: a refusal is an answer with a page as long as that
is cheap, and a hang-up above; each adds one to its row in the table `refused`, whose key is the
backend that refuses: `no_…` for what the door itself refuses, a slot for a worker whose queue is
full. A request that is not refused pays for the comparisons alone, no look-up but one.

What HAProxy counts for itself (heads it cannot read, answers it cannot read) is in
`kythera.route.refusals`; what is slow, in `kythera.route.slow`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kythera.model.limits import Limits
from kythera.route.pages import QUEUE_STATUS
from kythera.route.rules import HEALTH_PATH, answer

REFUSED = "refused"
STREAMS = "streams"
"""Counts requests that share connections (HTTP/2)."""
QUEUES = "queues"
"""The map with workers that have a queue of their own length."""
NO = "no_"
"""Opens the name of a backend that refuses; the reason follows."""
CONNECTIONS, PER_CLIENT = "connections", "connections_per_client"
HEAD, URL, BODY = "head_too_large", "url_too_long", "body_too_large"
REFUSALS = {CONNECTIONS: 503, PER_CLIENT: 429, HEAD: 431, URL: 414, BODY: 413}
"""What the door itself refuses, with the status."""
DATA_UNKNOWN, DATA_FORBIDDEN, DATA_ABSENT = "data_unknown", "data_forbidden", "data_absent"
OF_DATA = (DATA_UNKNOWN, DATA_FORBIDDEN, DATA_ABSENT)
"""What the doors of a fleet's data refuse (`kythera.route.mesh_data`)."""
CLOSING = (CONNECTIONS, PER_CLIENT)
"""Refusals that end the connection, since it is the connection that is too many."""
COUNTED = f"  http-request track-sc1 be_name table {REFUSED}"
"""A row is kept for each slot that ever refused."""
ROWS_MAX = 100_000
BUFFER_BYTES_MIN = 16_384
CLIENT_REST_S = 10
MAPPED = "::ffff:0:0/96"
"""IPv4 as a socket for both kinds of addresses shows it: all of it lies in one /64."""


@dataclass(frozen=True)
class Room:
    """How many connections fit, in all and of visitors; what is between is kept for the mesh, for
    health checks and for refusing."""

    connections: int
    visitors: int
    client: int

    @classmethod
    def of(cls, connections: int, limits: Limits) -> "Room":
        """Share out `connections`, HAProxy's own limit."""
        most = connections * 8 // 10
        visitors = min(limits.connections_max, most) if limits.connections_max else most
        # Nobody alone fills the door, however it is set up.
        client = max(1, min(limits.connections_per_client_max, visitors // 2))
        return cls(connections, visitors, client)

    @property
    def visitors_told(self) -> int:
        """Up to so many are told that there is no room; more are hung up on."""
        return self.visitors + max(8, self.visitors // 16)

    @property
    def client_told(self) -> int:
        """The same for one client."""
        return self.client + max(8, self.client // 8)

    @property
    def queue(self) -> int:
        """The longest queue of one worker: a worker that hangs leaves half of the door to others."""
        return max(1, self.visitors // 2)


def counted(reason: str) -> str:
    """Return a rule, without its condition, that adds one to a reason's row."""
    return f"  http-request track-sc1 str({NO}{reason}) table {REFUSED}"


def buffer_bytes(limits: Limits) -> int:
    """Return the size of HAProxy's buffers: what they hold can be refused with a page; HAProxy itself
    answers what is longer, with 400. Hence somewhat more than a head may have, and no more than has
    to be: with half as much again each request costs 1 to 2 µs more (measured)."""
    return max(BUFFER_BYTES_MIN, limits.request_head_bytes_max * 8 // 7)


def headers_readable(limits: Limits) -> int:
    """Return up to how many header lines HAProxy reads, for the same reason."""
    return 2 * limits.request_headers_max + 2


def connection_rules(room: Room) -> Iterator[str]:
    """Look at a connection when it opens, before TLS."""
    rule = "  tcp-request connection"
    yield (
        f"  stick-table type ipv6 size {room.connections} expire {CLIENT_REST_S}s store conn_cur"
    )
    yield f"{rule} track-sc2 src if {{ src {MAPPED} }}"
    # Whoever has an IPv6 address has 2^64 of them.
    yield f"{rule} track-sc2 src,ipmask(32,64)"
    for reason, count, told, most in (
        (CONNECTIONS, "fe_conn", room.visitors_told, room.visitors),
        (PER_CLIENT, "sc2_conn_cur", room.client_told, room.client),
    ):
        above = f"if {{ {count} gt {told} }}"
        yield f"{rule} track-sc1 str({NO}{reason}) table {REFUSED} {above}"
        yield f"{rule} reject {above}"
        yield f"{rule} set-var(sess.no) str({NO}{reason}) if {{ {count} gt {most} }}"


def request_rules(limits: Limits, room: Room, *, shared: bool) -> Iterator[str]:
    """Look at a request; `shared`: several may come by one connection at the same time."""
    rule = "  http-request set-var(txn.slot)"
    yield (
        f"{rule} var(sess.no) if {{ var(sess.no) -m found }} !{{ path {HEALTH_PATH} }}"
    )  # Load balancers are answered also by a door that is full.
    if shared:
        http2 = "{ var(sess.protocol) -m end 2 }"
        yield f"  http-request track-sc0 str({STREAMS}) table {STREAMS} if {http2}"
        full = f"{{ sc0_conn_cur({STREAMS}) gt {room.visitors} }}"
        yield f"{rule} str({NO}{CONNECTIONS}) if {http2} {full}"
    yield f"{rule} str({NO}{BODY}) if {{ req.body_size gt {limits.request_body_bytes_max} }}"
    yield f"{rule} str({NO}{URL}) if {{ url -m len gt {limits.url_bytes_max} }}"
    most = limits.request_head_bytes_max
    yield f"{rule} str({NO}{HEAD}) if {{ req.hdrs -m len gt {most} }}"
    yield f"{rule} str({NO}{HEAD}) if {{ req.fhdr_cnt gt {limits.request_headers_max} }}"
    yield "  http-request allow if { var(txn.slot) -m found }"


def queue_rules(limits: Limits, room: Room) -> Iterator[str]:
    """What a worker's backend looks at: requests inside its cells, and on the way to them."""
    usual = usual_queue(limits, room)
    yield f"  http-request set-var(txn.most) be_name,map_str_int({QUEUES}.map,{usual})"
    yield "  http-request allow if { be_conn,sub(txn.most) le 0 }"
    yield COUNTED
    yield from _full()


def far_queue_rules(limits: Limits, room: Room) -> Iterator[str]:
    """The same on the way to other machines, for a backend whose own table counts workers by sc1: who
    hangs there must not fill the door here. They know how long a queue of a worker's own may be."""
    yield f"  http-request allow if {{ sc1_conn_cur le {usual_queue(limits, room)} }}"
    yield "  http-request sc-inc-gpc0(1)"
    yield from _full()


def usual_queue(limits: Limits, room: Room) -> int:
    """Return how long the queue is of a worker that says nothing."""
    return min(limits.queue_requests, room.queue)


def _full() -> Iterator[str]:
    # What failed is told line by line to who explains failures: a flood must not drown it.
    yield "  http-request set-log-level silent"
    yield f"  http-request return status {QUEUE_STATUS} default-errorfiles"


def refusing_backends(limits: Limits, *, shared: bool) -> Iterator[str]:
    """The tables, and a backend for each refusal of the door's own."""
    yield f"backend {REFUSED}"
    yield f"  stick-table type string len 64 size {ROWS_MAX} store conn_cnt"
    if shared:
        yield f"backend {STREAMS}"
        yield "  stick-table type string len 16 size 16 store conn_cur"
    for reason, status in REFUSALS.items():
        yield f"backend {NO}{reason}"
        yield COUNTED
        yield "  http-request set-log-level silent"
        closing = " hdr Connection close" if reason in CLOSING else ""
        yield f"  http-request return status {status} {answer(reason, limits)}{closing}"
