"""Addresses of this machine: its own network interfaces, as the kernel lists them, and its doors."""

import ipaddress
from pathlib import Path

ROUTES = Path("/proc/net/fib_trie")
ADDRESSES_V6 = Path("/proc/net/if_inet6")


def own_addresses(routes: Path = ROUTES, v6: Path = ADDRESSES_V6) -> tuple[str, ...]:
    """Return all addresses but loopback's, in order; those that cannot be read are left out."""
    found_v4 = sorted(address for address in _v4(_text(routes)) if not address.is_loopback)
    found_v6 = sorted(address for address in _v6(_text(v6)) if not address.is_loopback)
    return tuple(str(address) for address in (*found_v4, *found_v6))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _v4(trie: str) -> set[ipaddress.IPv4Address]:
    """Take the leaves that are an address of this host: `|-- 10.0.0.2`, then `/32 host LOCAL`."""
    found, leaf = set(), ""
    for line in trie.splitlines():
        _, mark, rest = line.partition("|-- ")
        if mark:
            leaf = rest.strip()
        elif line.strip() == "/32 host LOCAL":
            found.add(ipaddress.IPv4Address(leaf))
    return found


def _v6(table: str) -> set[ipaddress.IPv6Address]:
    return {ipaddress.IPv6Address(int(line.split()[0], 16)) for line in table.splitlines()}


def loopback(address: str) -> str:
    """Return an address a client of this machine can use for one that listens everywhere."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"{host}:{port}"
