"""A round of the crash test is known by its seed and its number, and the rounds hit everybody."""

import pytest

from tests.crash.ledger import COUNTERS, STORES
from tests.crash.plan import KINDS, Wanted, planned
from tests.crash.victims import kind

SANDBOX = "/usr/bin/bwrap --unshare-all /bin/workerd serve --socket-fd http=5"
CELL = "/bin/workerd serve --experimental --binary --socket-fd http=5 --socket-fd pulse=6 -"
EGRESS = "/bin/workerd serve --experimental --binary --socket-fd http=5 --socket-fd counters=6 -"


def test_a_round_is_the_same_whichever_came_before() -> None:
    """And another seed's is another."""
    assert planned(1, 137, Wanted()) == planned(1, 137, Wanted())
    assert planned(1, 137, Wanted()) != planned(2, 137, Wanted())


def test_two_hundred_rounds_hit_everybody_and_use_every_store() -> None:
    """Killed each kind is, and the platform; some stand still, some deploy, several at once are hit."""
    rounds = [planned(1, number, Wanted(fills=True)) for number in range(1, 201)]
    hits = [hit for each in rounds for hit in each.hits]
    assert {hit.kind for hit in hits if hit.how == "kill"} == {*KINDS, "platform"}
    assert {hit.how for hit in hits} == {"kill", "stop", "deploy", "fill"}
    assert max(len(each.hits) for each in rounds) == 3
    assert {client.store for each in rounds for client in each.clients} == set(STORES)


def test_one_client_alone_writes_a_name() -> None:
    """But for counters, where several are the point."""
    for number in range(200):
        clients = planned(3, number, Wanted()).clients
        alone = [(c.store, c.slot) for c in clients if c.store not in COUNTERS]
        assert len(alone) == len(set(alone))


@pytest.mark.parametrize(
    ("line", "file", "expected"),
    [
        ("/v/bin/python -m kythera.node.agent --state /s", "", "agent"),
        ("/v/bin/python -m kythera.control.server --state /s", "", "api"),
        ("/v/bin/python -m kythera.node.kv_server --state /s", "", "kv"),
        ("/v/bin/python -m kythera.store.r2_server --state /s", "", "r2"),
        ("/bin/weed -v=-1 server -ip=127.0.0.1", "", "engine"),
        ("/v/bin/nats-server -c /s/nats.conf", "", "log"),
        ("/usr/sbin/haproxy -W -f haproxy.cfg", "", "front"),
        (CELL, "/data/d1/metadata.sqlite", "d1"),
        (CELL, "/data/queues/metadata.sqlite", "queues"),
        (CELL, "/objects/ab/metadata.sqlite", "objects"),
        (CELL, "/memfd:kythera (deleted)", "cell"),
        (EGRESS, "", "egress"),
        (SANDBOX, "", ""),
        ("/bin/sh", "", ""),
    ],
)
def test_a_process_is_known_by_its_command_and_its_files(
    line: str, file: str, expected: str
) -> None:
    """Who is hit is who was meant."""
    assert kind(line, frozenset({file} - {""})) == expected
