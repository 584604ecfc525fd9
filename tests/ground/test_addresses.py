"""This machine's own addresses, read from what the kernel shows."""

from pathlib import Path

from kythera.ground.addresses import own_addresses

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /24 link UNICAST
        |-- 10.0.0.2
           /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
  |-- 198.51.100.7
     /32 host LOCAL
"""
SIX = """fe80000000000000000000000000abcd 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80     eth0
"""


def test_local_addresses_are_found_and_loopback_is_not_among_them(tmp_path: Path) -> None:
    """Goal: broadcast and network addresses are nobody's."""
    trie, six = tmp_path / "fib_trie", tmp_path / "if_inet6"
    trie.write_text(TRIE)
    six.write_text(SIX)
    assert own_addresses(trie, six) == ("10.0.0.2", "198.51.100.7", "2001:db8::7", "fe80::abcd")


def test_a_host_that_does_not_show_them_has_none(tmp_path: Path) -> None:
    """Goal: without /proc/net nothing breaks."""
    assert own_addresses(tmp_path / "a", tmp_path / "b") == ()
