"""Refusals from HAProxy's counters: every one is counted once, under its reason."""

import pytest

from kythera.model.catalog import Catalog, Name
from kythera.model.limits import Limits
from kythera.model.records import Confinement, Version, encode
from kythera.model.traffic import Share, Traffic
from kythera.route.admission import Room
from kythera.route.queues import queues
from kythera.route.refusals import (
    Reading,
    Refusals,
    failed_answers,
    parse_heads,
    parse_refused,
    parse_violations,
)
from kythera.route.runtime import ServerRow

TABLE = """\
# table: refused, type: string, size:100000, used:2
0x5a: key=no_url_too_long use=0 exp=0 conn_cnt=3
0x5b: key=s0001 use=0 exp=0 shard=0 conn_cnt=15
"""


def owner(slot: str) -> Name | None:
    """Return whose slot it is."""
    return ("a", "hello") if slot == "s0001" else None


def told(refusals: Refusals) -> dict[str, int]:
    """Return the reasons that held."""
    return {reason: n for reason, n in refusals.totals().items() if n}


def test_what_haproxy_prints_is_read() -> None:
    """Tables, the door's row, the number of violations; nothing where there is nothing."""
    assert parse_refused(TABLE) == {"no_url_too_long": 3, "s0001": 15}
    stat = "# pxname,svname,ereq\ndoor,FRONTEND,4\nrelay,FRONTEND,9\n"
    assert (parse_heads(stat), parse_heads("Unknown"), parse_heads("")) == (4, 0, 0)
    assert parse_violations("Total events captured on [23/Nov/2026:14:20:59.4] : 5\n") == 5
    assert parse_violations("") == 0
    rows = [ServerRow("s0001", "c1", 0, 9, failed_answers=5, hung_up=2)]
    assert failed_answers(rows) == {"c1": 3}


def test_rows_count_by_reason_and_full_queues_by_worker() -> None:
    """A reload begins a process at nought: totals go on from where they were."""
    refusals = Refusals()
    refusals.take({1: Reading(parse_refused(TABLE), 0, 0, {})}, owner)
    assert told(refusals) == {"url_too_long": 3, "queue": 15}
    both = {1: Reading({"s0001": 16, "no_url_too_long": 3}, 0, 0, {}), 2: Reading({}, 0, 0, {})}
    refusals.take(both, owner)
    refusals.take({2: Reading({"s0001": 4, "a/far": 1}, 0, 0, {})}, owner)
    assert told(refusals) == {"url_too_long": 3, "queue": 21}
    assert refusals.queues == {("a", "hello"): 20, ("a", "far"): 1}


@pytest.mark.parametrize(
    ("heads", "violations", "answers", "wanted"),
    [
        (2, 2, 0, {"head_not_understood": 2}),
        (2, 0, 0, {"head_not_sent": 2}),
        (3, 1, 0, {"head_not_understood": 1, "head_not_sent": 2}),
        (0, 2, 2, {"answer_not_understood": 2}),
        (0, 2, 0, {"answer_not_understood": 2}),
        (1, 2, 1, {"head_not_understood": 1, "answer_not_understood": 1}),
        (1, 0, 5, {"head_not_sent": 1}),
    ],
)
def test_sums_are_told_apart(
    heads: int, violations: int, answers: int, wanted: dict[str, int]
) -> None:
    """Violations are heads or answers that were not understood; other failed heads never became whole."""
    refusals = Refusals()
    for _ in range(2):  # A look at which nothing is new adds nothing.
        refusals.take({1: Reading({}, heads, violations, {"c1": answers})}, owner)
    assert told(refusals) == wanted


def test_room_is_kept_for_others_than_visitors_and_for_more_than_one_client() -> None:
    """However it is set up: something stays for the mesh, and nobody alone fills the door."""
    for connections in (100, 8_521, 200_000):
        for limits in (Limits(), Limits(connections_max=30, connections_per_client_max=10**6)):
            room = Room.of(connections, limits)
            assert room.visitors_told < connections
            assert 1 <= room.client <= room.visitors // 2
            assert room.queue <= room.visitors // 2
    assert Room.of(8_521, Limits(connections_max=30)).visitors == 30


def test_a_worker_has_the_longest_queue_that_any_of_its_versions_may_have() -> None:
    """Versions that say nothing have the platform's; nobody has more than the machine allows."""
    catalog = Catalog()
    for version, asked in (("small", 5), ("usual", 0), ("huge", 50_000)):
        record = Version(
            account="a",
            worker="w",
            id=version,
            number=1,
            created_on="",
            confinement=Confinement(queue_requests=asked),
        )
        catalog.apply(record.key(), encode(record))

    def of(*versions: str) -> dict[Name, int]:
        shares = tuple(
            Share(server=v, version_id=v, path="/x", percentage=100 / len(versions))
            for v in versions
        )
        traffic = {("a", "w"): Traffic(account="a", worker="w", shares=shares)}
        return queues(catalog, traffic, Limits(), 3_000)

    assert of("small") == {("a", "w"): 5}
    assert of("usual") == of("small", "usual") == {}
    assert of("small", "huge") == {("a", "w"): 3_000}
