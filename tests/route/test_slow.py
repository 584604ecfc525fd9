"""Who is slow, decided from what HAProxy prints: pure, on made-up sessions and clocks."""

import pytest

from kythera.model.limits import Limits
from kythera.route.refusals import LONG_BODY, SLOW_BODY, SLOW_READER
from kythera.route.slow import CANDIDATES_MAX, Session, Slow, parse_session, suspicious

LIMITS = Limits(
    slow_body_s=10,
    body_bytes_per_s_min=100,
    slow_reader_s=20,
    answer_bytes_per_s_min=100,
    request_body_bytes_max=1_000_000,
)
LIST = """\
0x5a: proto=tcpv4 src=127.0.0.1:1 fe=door be=s0001 srv=c1 ts=00 epoch=0 age=2s calls=1 rate=0 cpu=0 \
lat=0 rq[f=8c40080h,i=0,an=8000h,rx=,wx=,ax=] rp[f=88400000h,i=0,an=1400000h,rx=9m58s,wx=,ax=] scf=[8]
0x5b: proto=tcpv4 src=127.0.0.1:2 fe=door be=s0001 srv=c1 ts=00 epoch=0 age=2s calls=1 rate=0 cpu=0 \
lat=0 rq[f=49c40080h,i=0,an=8000h,rx=,wx=,ax=] rp[f=88070202h,i=1112,an=0h,rx=,wx=9m58s,ax=] scf=[8]
0x5c: proto=tcpv4 src=127.0.0.1:3 fe=door be=s0001 srv=c1 ts=00 epoch=0 age=2s calls=1 rate=0 cpu=0 \
lat=0 rq[f=49c40080h,i=0,an=8000h,rx=,wx=,ax=] rp[f=88400000h,i=0,an=1400000h,rx=9m58s,wx=,ax=] scf=[8]
0x5d: proto=unix_stream src=unix:1 fe=here be=s0001 srv=c1 ts=00 epoch=0 age=2s calls=1 rate=0 cpu=0 \
lat=0 rq[f=8c40080h,i=0,an=8000h,rx=,wx=,ax=] rp[f=88400000h,i=0,an=1400000h,rx=9m58s,wx=,ax=] scf=[8]
0x5e: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s calls=1 rate=0
"""
DETAIL = """\
0x5b: [23/Nov/2026:14:23:22.563485] id=15 proto=tcpv4 source=127.0.0.1:43348
  txn=0x6c flags=0x3000 meth=1 status=200 req.st=MSG_DONE rsp.st=MSG_DATA req.f=0x4c rsp.f=0x0d
  scf=0x6d flags=0x00000080 state=EST endp=CONN,0x6e,0x02004001 sub=3
  req=0x6f (f=0x49c40080 an=0x8000 pipe=0 tofwd=0 total=41)
      an_exp=<NEVER> rex=<NEVER> wex=<NEVER>
      buf=0x70 data=(nil) o=0 p=0 i=0 size=0
  res=0x71 (f=0x88070202 an=0x4000000 pipe=0 tofwd=-1 total=4272705)
      an_exp=<NEVER> rex=<NEVER> wex=9m58s
      buf=0x72 data=0x73 o=15272 p=15272 i=1112 size=16384
"""


def sending(received: int, *, held: int = 0, answering: bool = False) -> Session:
    """Return a request whose body is on its way."""
    return Session(
        number=1,
        body_open=True,
        answering=answering,
        received=received,
        held=held,
        answered=0,
        waiting=0,
    )


def reading(answered: int, waiting: int = 1_000) -> Session:
    """Return a request whose answer waits for its client."""
    return Session(
        number=1,
        body_open=False,
        answering=True,
        received=50,
        held=0,
        answered=answered,
        waiting=waiting,
    )


def test_what_haproxy_prints_is_read() -> None:
    """Bodies that are not whole and answers that wait, of visitors alone; the rest is left alone."""
    assert suspicious(LIST) == {"0x5a", "0x5b"}
    assert parse_session(DETAIL) == Session(
        number=15,
        body_open=False,
        answering=True,
        received=41,
        held=0,
        answered=4272705 - 15272 - 1112,
        waiting=15272,
    )
    assert parse_session("") is None
    assert parse_session(DETAIL.replace("req.st=", "state=")) is None


@pytest.mark.parametrize(
    ("sessions", "verdict"),
    [
        ([sending(100), sending(105), sending(110)], SLOW_BODY),
        ([sending(100), sending(2_000), sending(4_000)], ""),
        ([sending(100), sending(105, held=50), sending(110)], ""),
        ([sending(100, answering=True)] * 3, ""),
        ([sending(2_000_000, answering=True)], LONG_BODY),
        ([reading(0), reading(0), reading(0)], SLOW_READER),
        ([reading(0), reading(0), reading(5_000)], ""),
        ([reading(0), reading(0, waiting=0), reading(0)], ""),
    ],
    ids=[
        *("drips", "steady", "worker_does_not_read", "conversation", "too_long"),
        *("takes_nothing", "takes_in_lumps", "had_all_once"),
    ],
)
def test_the_mean_over_a_window_without_a_break_decides(
    sessions: list[Session], verdict: str
) -> None:
    """Looks are ten seconds apart; a verdict falls once."""
    slow = Slow(LIMITS)
    said = [slow.verdict("0x1", session, 10.0 * n) for n, session in enumerate(sessions)]
    said += [slow.verdict("0x1", sessions[-1], 10.0 * len(sessions))] if verdict else []
    assert [why for why in said if why] == ([verdict] if verdict else [])


def test_another_request_at_the_same_place_begins_anew() -> None:
    """HAProxy reuses memory: its number tells requests apart."""
    slow = Slow(LIMITS)
    slow.verdict("0x1", sending(100), 0)
    other = Session(
        number=2, body_open=True, answering=False, received=100, held=0, answered=0, waiting=0
    )
    assert slow.verdict("0x1", other, 100) == ""


def test_only_what_was_suspicious_before_is_asked_for_and_never_too_many() -> None:
    """Short requests cost a line each; many long ones take turns, and all have one."""
    slow = Slow(LIMITS)
    many = {f"0x{n:05x}" for n in range(CANDIDATES_MAX * 2 + 10)}
    assert slow.to_ask(many) == []
    asked = [slow.to_ask(many) for _ in range(4)]
    assert max(map(len, asked)) == CANDIDATES_MAX
    assert set().union(*asked) == many
    assert slow.to_ask({"0xnew"}) == []
