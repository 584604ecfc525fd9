"""Wrong tokens: counted, slowed for whoever sends many, and told to the journal now and then.

Pure: time is an argument, and the wait is returned. Promises: only answers that refuse wait, so that
a right token from the same address is served as ever; memory is bounded; the journal gets a line
in `wrong_token_journal_s`, never with a token. What keeps guessers out is the length of the
tokens; this keeps them from being a load and from filling the journal.
"""

import ipaddress
from collections import Counter, OrderedDict
from typing import Any

from msgspec import Struct

from kythera.model.limits import Limits

IPV6_NETWORK_BITS = 64
"""Who has one address of such a network has all of them."""


class Sender(Struct):
    """One address that sent wrong tokens."""

    failures: int = 0
    last_at: float = 0.0


class WrongTokens:
    """All that is remembered of them. `counts`: refusals since this process began, by reason."""

    def __init__(self, limits: Limits) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits
        self._senders: OrderedDict[str, Sender] = OrderedDict()
        self._waiting = 0
        self._told_at: float | None = None
        self._untold = 0

    def failed(self, client: str, reason: str, now: float) -> float:
        """Note a wrong token; return how many seconds its answer is to wait."""
        self.counts[reason] += 1
        self._untold += 1
        sender = self._sender(network_of(client), now)
        sender.failures += 1
        sender.last_at = now
        return self._wait_s(sender.failures)

    def is_slowed(self, client: str, now: float) -> bool:
        """Tell whether this address has sent more than a few."""
        sender = self._senders.get(network_of(client))
        free = self._limits.wrong_tokens_free
        return sender is not None and sender.failures >= free and not self._is_old(sender, now)

    def _sender(self, network: str, now: float) -> Sender:
        found = self._senders.get(network)
        if found is None or self._is_old(found, now):
            found = self._senders[network] = Sender()
        self._senders.move_to_end(network)
        if len(self._senders) > self._limits.wrong_token_clients_max:
            self._senders.popitem(last=False)
        return found

    def _is_old(self, sender: Sender, now: float) -> bool:
        return now - sender.last_at > self._limits.wrong_token_forget_s

    def _wait_s(self, failures: int) -> float:
        limits = self._limits
        beyond = failures - limits.wrong_tokens_free
        if beyond <= 0:
            return 0.0
        doublings = min(beyond - 1, 30)
        wait_ms: int = limits.wrong_token_wait_ms_min << doublings
        return min(wait_ms, limits.wrong_token_wait_ms_max) / 1000

    def begin_waiting(self) -> bool:
        """Take one of the places for answers that wait; False: none is left."""
        if self._waiting >= self._limits.wrong_tokens_waiting_max:
            self.counts["not_waited"] += 1
            return False
        self._waiting += 1
        return True

    def end_waiting(self) -> None:
        """Give the place back."""
        self._waiting -= 1

    def to_tell(self, now: float) -> dict[str, Any] | None:
        """Return what the journal is to be told now, if it is time."""
        if self._told_at is not None and now - self._told_at < self._limits.wrong_token_journal_s:
            return None
        told = {"refused_since_last_line": self._untold, "refused": dict(self.counts)}
        self._told_at, self._untold = now, 0
        return told


def network_of(client: str) -> str:
    """Return whom an address stands for: itself, or the IPv6 network that it is part of."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
