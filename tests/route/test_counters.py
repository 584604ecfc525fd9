"""What HAProxy tells of its processes and cells, read and summed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.route.forwarding import (
    Forwarding,
    PeerTraffic,
    Reading,
    down_peers,
    parse_homed,
    parse_table,
    streams_among,
)
from kythera.route.loads import Load, Tally, totals_by_worker
from kythera.route.plan import FrontPlan, Server
from kythera.route.runtime import (
    Processes,
    ServerRow,
    parse_info,
    parse_processes,
    parse_servers,
)

SHOW_PROC = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
4711            master          2 [failed: 1]   0d00h00m28s     2.6.12-1+deb12u4
# workers
4720            worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
4713            worker          2               0d00h00m28s     2.6.12-1+deb12u4
4717            worker          1               0d00h00m04s     2.6.12-1+deb12u4
# programs

"""


def test_the_masters_list_of_processes_is_read() -> None:
    """The newest, those that drain, and reloads that failed."""
    assert parse_processes(SHOW_PROC) == Processes(4720, (4713, 4717), 1)
    assert parse_processes("") == Processes(None, (), 0)


def test_statistics_are_read_by_the_names_of_their_columns() -> None:
    """Order and number of columns are HAProxy's business."""
    text = "# svname,x,pxname,stot,scur,status,\nc1,,s0001,12,3,UP,\nc2,,s0001,5,0,no check,\n\n"
    assert parse_servers(text) == [
        ServerRow("s0001", "c1", 3, 12, "UP"),
        ServerRow("s0001", "c2", 0, 5, "no check"),
    ]
    assert parse_servers("Can't find the target PID") == []
    assert parse_info("Name: HAProxy\nPid: 7\n")["Pid"] == "7"


def test_a_process_that_ends_leaves_its_count() -> None:
    """Old and new process are summed, and the old one's last word is kept."""
    tally = Tally()
    assert tally.count({1: [row("c", 1, 10)]}) == {"c": Load(1, 10)}
    assert tally.count({1: [row("c", 1, 12)], 2: [row("c", 2, 3)]}) == {"c": Load(3, 15)}
    assert tally.count({2: [row("c", 2, 4)]}) == {"c": Load(2, 16)}
    assert tally.count({2: []}) == {}


pids = st.integers(1, 3)
cells = st.sampled_from("abc")


@given(st.lists(st.tuples(st.sampled_from(["ask", "end", "serve"]), pids, cells), max_size=60))
def test_totals_never_fall_and_never_exceed_what_was_served(
    history: list[tuple[str, int, str]],
) -> None:
    """Processes end and start anew with counters at nought; totals stay true."""
    tally = Tally()
    counters: dict[tuple[int, str], int] = {(p, c): 0 for p in (1, 2, 3) for c in "abc"}
    served = dict.fromkeys("abc", 0)
    before = dict.fromkeys("abc", 0)
    for action, pid, cell in history:
        if action == "serve":
            counters[pid, cell] += 1
            served[cell] += 1
        elif action == "end":
            counters |= {(pid, other): 0 for other in "abc"}
        else:
            rows = {p: [row(c, 0, counters[p, c]) for c in "abc"] for p in (1, 2, 3)}
            now = {name: load.requests for name, load in tally.count(rows).items()}
            for name, total in now.items():
                assert before[name] <= total <= served[name]
            before = now


def row(server: str, current: int, total: int) -> ServerRow:
    """Return one row of statistics."""
    return ServerRow("s0001", server, current, total)


@pytest.mark.parametrize("text", ["", "\n", "# pxname\n"])
def test_empty_statistics_are_no_cells(text: str) -> None:
    """A process without servers has no rows."""
    if text != "# pxname\n":
        assert parse_servers(text) == []
    else:
        with pytest.raises(ValueError, match="svname"):
            parse_servers(text)


TABLE = """\
# table: here, type: string, size:4096, used:2
0x55: key=b use=0 exp=0 shard=0 http_req_cnt=12
0x56: key=c use=1 exp=0 http_req_cnt=3

"""
HOMED = """\
# table: home, type: string, size:20000, used:1
0x55: key=aaaa/w-1 use=0 exp=359 http_req_rate(60000)=4
"""
SESSIONS = """\
0x5a: proto=tcpv4 src=127.0.0.1:1 fe=mesh be=to_log srv=inner ts=00
0x5b: proto=tcpv4 src=127.0.0.1:1 fe=mesh be=to_http srv=inner ts=00
0x5c: proto=unix_stream src=unix:1 fe=door be=s0001 srv=c1 ts=00
0x5d: proto=tcpv4 src=127.0.0.1:1 fe=tunnel_x be=tunnel_x srv=peer ts=00
"""


def test_tables_and_sessions_are_read() -> None:
    """Rows by their key; streams are told from requests by where they go."""
    assert parse_table(TABLE) == {"b": 12, "c": 3}
    assert parse_table("Unknown table") == {}
    assert parse_homed(HOMED) == {("aaaa", "w-1"): 4}
    assert streams_among(SESSIONS) == ["0x5a", "0x5d"]


def test_peers_are_summed_over_ways_and_processes() -> None:
    """Both ways to a peer are one; its state is the newest process's; totals do not fall."""
    forwarding = Forwarding()

    def reading(state: str, sent: int, received: int) -> Reading:
        rows = (
            ServerRow("away", "b", 1, sent, state),
            ServerRow("home", "b", 0, 2, state),
            ServerRow("away", "me", 0, 9, "no check"),
            ServerRow("s0001", "c1", 5, 5, "no check"),
        )
        return Reading(rows, {"b": received})

    found = forwarding.count({1: reading("UP 1/2", 10, 4)}, 1)
    assert found == {"b": PeerTraffic("up", 1, 12, 4)}
    found = forwarding.count({2: reading("NOLB", 0, 0), 1: reading("DOWN", 11, 5)}, 2)
    assert found == {"b": PeerTraffic("leaving", 2, 15, 5)}
    found = forwarding.count({2: reading("DOWN 1/2", 3, 2)}, 2)
    assert found == {"b": PeerTraffic("down", 1, 18, 7)}
    assert down_peers(reading("DOWN", 0, 0).rows) == {"b"}


def test_requests_are_summed_by_worker() -> None:
    """All cells of a worker that there are now; those HAProxy does not name are left out."""
    cells = tuple(Server(name=name, path="/x", weight=1) for name in ("c1", "c2", "c3"))
    plan = FrontPlan(owners={"s0001": "a/one", "s0002": "a/two"}, servers={"s0001": cells})
    loads = {"c1": Load(0, 3), "c2": Load(1, 4), "c9": Load(0, 7)}
    assert totals_by_worker(plan, loads) == {("a", "one"): 7}
