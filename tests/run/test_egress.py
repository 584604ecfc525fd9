"""Which addresses are refused, what a cell's token says, and what is counted over restarts."""

import base64
import hashlib
import hmac
import ipaddress
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.model.records import Confinement, Version
from kythera.run.addresses import FORBIDDEN, WORDS, blocks, forbidden, own_blocks
from kythera.run.config import schema
from kythera.run.egress import EgressSettings, egress_config
from kythera.run.egress_counts import Counts, WorkerCounts, added
from kythera.run.outbound import Policy, policy_of, token_of

addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)
counted = st.integers(0, 2**40)
reasons = st.dictionaries(st.sampled_from(["private", "loopback"]), counted)


def reason_of(address: str, allow: tuple[str, ...] = ("public",)) -> str | None:
    """Return why an address is refused; None: it is not."""
    found = ipaddress.ip_address(address)
    return next((reason for block, reason in forbidden(allow) if found in block), None)


@given(addresses)
def test_what_is_not_global_is_refused(address: Any) -> None:
    """Goal: whatever Python's own table calls private, reserved or local, ours refuses as well."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert reason_of(str(address)) is not None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("169.254.169.254", "metadata"),
        ("169.254.1.1", "link_local"),
        ("100.64.0.1", "shared"),
        ("::ffff:8.8.8.8", "embedded"),
        ("64:ff9b::8.8.8.8", "embedded"),
        ("2002:808:808::1", "embedded"),
        ("2001::1", "embedded"),
        ("fd00:ec2::254", "metadata"),
        ("fd00::1", "private"),
        ("ff02::1", "multicast"),
        ("8.8.8.8", None),
        ("2606:4700::1111", None),
        ("2001:4860:4860::8888", None),
    ],
)
def test_each_refusal_has_a_reason(address: str, reason: str | None) -> None:
    """Goal: the first block that holds an address names it; public ones are in none."""
    assert reason_of(address) == reason


def test_every_reason_has_words() -> None:
    """Goal: nobody is told a key."""
    assert {reason for _, reason in FORBIDDEN} | {"own"} == set(WORDS)


@given(st.ip_addresses(v=4), st.integers(8, 32))
def test_the_operators_blocks_are_taken_out_and_nothing_else(address: Any, length: int) -> None:
    """Goal: what was refused and is not in the block stays refused; what is in it is not."""
    block = ipaddress.ip_network((int(address), length), strict=False)
    allow = ("public", str(block))
    assert reason_of(str(address), allow) is None
    outside = block.network_address - 1 if int(block.network_address) else None
    if outside is not None:
        assert reason_of(str(outside), allow) == reason_of(str(outside))


def test_a_block_that_is_none_is_refused_at_the_start() -> None:
    """Goal: a slip of the pen is told, not obeyed."""
    with pytest.raises(SetupError, match=r"10\.0\.0\.1/8"):
        blocks(["public", "10.0.0.1/8"])


def test_a_wide_block_does_not_open_this_machine() -> None:
    """Goal: its own address has to be named by itself."""
    own = ["10.1.2.3", "fd00::7"]
    assert [str(b) for b, _ in own_blocks(own, ["public", "10.0.0.0/8"])] == [
        "10.1.2.3/32",
        "fd00::7/128",
    ]
    assert [str(b) for b, _ in own_blocks(own, ["10.1.2.3/32"])] == ["fd00::7/128"]


def test_the_network_refuses_what_the_rules_refuse() -> None:
    """Goal: what the script tells apart by name, workerd's network refuses after DNS."""
    made = EgressSettings(key="k", own=("1.0.0.7",), door_ports=(8080,))
    with schema().Config.from_bytes(egress_config(made)) as decoded:
        services = {service["name"]: service for service in decoded.to_dict()["services"]}
    everywhere = services["doors"]["network"]["deny"]
    assert services["internet"]["network"]["deny"] == ["1.0.0.7/32", *everywhere]
    assert everywhere == [str(block) for block, _ in forbidden()]
    bindings = {b["name"]: b for b in services["egress"]["worker"]["bindings"]}
    rules = json.loads(bindings["RULES"]["json"])
    assert len(rules["forbidden"]) == len(everywhere)
    assert rules["ports"] == [8080]


def version(**confinement: Any) -> Version:
    """Return a version that is confined so."""
    return Version(
        account="a" * 32,
        worker="hello",
        id="v1",
        number=1,
        created_on="2026-11-23T00:00:00.000000Z",
        confinement=Confinement(**confinement),
    )


def test_a_token_says_who_asks_and_is_signed() -> None:
    """Goal: the egress cell can believe it, and nobody without the key can write one."""
    policy = policy_of(version(egress="hosts", egress_hosts=("a.example",)), Limits())
    payload, _, mac = token_of(policy, "key").partition(".")
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    assert msgspec.json.decode(raw, type=Policy) == policy
    signed = hmac.digest(b"key", payload.encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(mac + "=" * (-len(mac) % 4)) == signed
    assert token_of(policy, "other") != token_of(policy, "key")


def test_connections_are_the_workers_the_platforms_or_the_most() -> None:
    """Goal: a limit that was lowered since holds for versions that asked for more."""
    limits = Limits(outbound_connections=10, outbound_connections_max=20)
    asked = {0: 10, 5: 5, 100: 20}
    for connections, given_ in asked.items():
        policy = policy_of(version(outbound_connections=connections), limits)
        assert policy.connections == given_


counts = st.builds(
    WorkerCounts,
    account=st.just("a"),
    worker=st.sampled_from(["one", "two"]),
    requests=counted,
    open=counted,
    bytes_in=counted,
    refused=reasons,
)
many = st.builds(
    Counts,
    forged=counted,
    workers=st.lists(counts, unique_by=lambda count: count.worker),
)


@given(many, many)
def test_sums_go_on_over_a_restart(past: Counts, now: Counts) -> None:
    """Goal: nothing that was counted is lost; what is open now is what the new one says."""
    both = added(past, now)
    total = sum(c.requests for c in (*past.workers, *now.workers))
    assert sum(c.requests for c in both.workers) == total
    assert sum(c.open for c in both.workers) == sum(c.open for c in now.workers)
    refused = sum(sum(c.refused.values()) for c in (*past.workers, *now.workers))
    assert sum(sum(c.refused.values()) for c in both.workers) == refused
    assert both.forged == past.forged + now.forged
