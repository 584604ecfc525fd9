"""Which addresses the outside is not: by block, each with a reason that has a name.

Pure. What is not public is refused unless the operator's own blocks say otherwise; so is every IPv6
form that holds an IPv4 address, for it would lead around the rest.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from kythera.model.errors import SetupError

Block = ipaddress.IPv4Network | ipaddress.IPv6Network
PUBLIC = "public"
WORDS = {
    "loopback": "this machine itself",
    "private": "a private address",
    "link_local": "a link-local address",
    "metadata": "where clouds keep a machine's secrets",
    "shared": "an address of a provider's own network",
    "multicast": "a multicast address",
    "reserved": "reserved and belongs to nobody",
    "embedded": "an IPv6 form of an IPv4 address",
    "own": "an address of this machine",
}
"""Reasons, and how they are told. The first block that holds an address names it."""
FORBIDDEN: tuple[tuple[str, str], ...] = (
    ("169.254.169.254/32", "metadata"),
    ("169.254.170.2/32", "metadata"),
    ("100.100.100.200/32", "metadata"),
    ("fd00:ec2::254/128", "metadata"),
    ("fd20:ce::254/128", "metadata"),
    ("0.0.0.0/8", "loopback"),
    ("127.0.0.0/8", "loopback"),
    ("10.0.0.0/8", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("100.64.0.0/10", "shared"),
    ("169.254.0.0/16", "link_local"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "loopback"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "embedded"),
    ("::/96", "embedded"),
    ("::ffff:0:0:0/96", "embedded"),
    ("64:ff9b::/96", "embedded"),
    ("64:ff9b:1::/48", "embedded"),
    ("2002::/16", "embedded"),
    ("2001::/32", "embedded"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link_local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
    ("::/3", "reserved"),
    ("4000::/2", "reserved"),
    ("8000::/1", "reserved"),
)


def blocks(allow: Iterable[str]) -> list[Block]:
    """Return the operator's own blocks. Raises SetupError for what is none."""
    found: list[Block] = []
    for text in allow:
        if text == PUBLIC:
            continue
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError:
            raise SetupError(
                f"--egress-allow {text!r} is not a block of addresses.",
                remedy="Write it as 10.1.0.0/16, 10.1.2.3 or fd00:1::/64.",
            ) from None
    return found


def _without(block: Block, allowed: Sequence[Block]) -> list[Block]:
    """Return what is left of a block when the allowed ones are taken out of it."""
    left = [block]
    for taken in allowed:
        if taken.version != block.version:
            continue
        rest: list[Block] = []
        for part in left:
            if part.subnet_of(taken):  # type: ignore[arg-type]
                continue
            if taken.subnet_of(part):  # type: ignore[arg-type]
                rest += part.address_exclude(taken)  # type: ignore[arg-type]
            else:
                rest.append(part)
        left = rest
    return left


def forbidden(allow: Iterable[str] = (PUBLIC,)) -> list[tuple[Block, str]]:
    """Return the refused blocks and their reasons, without what the operator allows."""
    allowed = blocks(allow)
    return [
        (part, reason)
        for text, reason in FORBIDDEN
        for part in _without(ipaddress.ip_network(text), allowed)
    ]


def own_blocks(own: Iterable[str], allow: Iterable[str]) -> list[tuple[Block, str]]:
    """Return this machine's own addresses as refused blocks, without those that the operator named
    one by one: a block that holds one by the way does not open this machine."""
    named = {block for block in blocks(allow) if block.prefixlen == block.max_prefixlen}
    listed = [ipaddress.ip_network(address) for address in own]
    return [(block, "own") for block in listed if block not in named]
