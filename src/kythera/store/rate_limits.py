"""The rate-limiting binding's counters: one set for all cells of this machine, in memory.

A window begins with a key's first request and ends `period` seconds later; what is asked in it beyond
the limit is refused, and not counted. Counters belong to an account and a namespace, and to nobody
else; they die with the process, which lets everybody begin again. They are each machine's own, as
Cloudflare's are each location's. Refuses nothing because it is full: then the oldest windows go.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import msgspec
from msgspec import Struct

from kythera.ground.passes import Pass
from kythera.model.limits import Limits
from kythera.store.exchange import Exchange
from kythera.store.usage import Usage

SILENT_S = 10.0
BODY_BYTES_MAX = 64 * 1024
SWEEP_S = 10.0

Counted = tuple[str, str, int, bytes]
"""Account, namespace, period, digest of the key: whatever its length, it takes as much room."""


class Asked(Struct, frozen=True):
    """What the binding says (`run/js/ratelimit.js`)."""

    key: str
    limit: int
    period: int
    delta: int = 1


@dataclass
class Window:
    """What a key has used."""

    ends_at: float
    used: int = 0


class Windows:
    """All counters. Pure but for what it remembers: time is an argument."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._windows: OrderedDict[Counted, Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, account: str, namespace: str, asked: Asked, now: float) -> bool:
        """Count a request and tell whether it is within its limit."""
        digest = hashlib.blake2b(asked.key.encode(errors="surrogatepass"), digest_size=16).digest()
        name = (account, namespace, asked.period, digest)
        window = self._windows.get(name)
        if window is None or window.ends_at <= now:
            self._windows.pop(name, None)
            window = self._windows[name] = Window(now + asked.period)
            if len(self._windows) > self._keys_max:
                self._windows.popitem(last=False)
        if window.used + asked.delta > asked.limit:
            return False
        window.used += asked.delta
        return True

    def sweep(self, now: float) -> None:
        """Forget windows that have ended."""
        ended = [name for name, window in self._windows.items() if window.ends_at <= now]
        for name in ended:
            del self._windows[name]


class RateLimitStore:
    """Answers the bindings."""

    def __init__(self, limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self.usage = Usage("calls", "limited")
        self._windows = Windows(limits.rate_limit_keys_max)
        self._now = now

    async def handle(self, exchange: Exchange, granted: Pass) -> None:
        """POST /: `{key, limit, period, delta?}` → `{success}`."""
        body = await exchange.body(BODY_BYTES_MAX, SILENT_S)
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except msgspec.MsgspecError as error:
            await exchange.answer(400, body=str(error).encode())
            return
        within = self._windows.take(granted.account, granted.resource, asked, self._now())
        self.usage.add(granted, "calls")
        self.usage.add(granted, "limited", not within)
        await exchange.answer_json({"success": within})

    async def keep(self) -> None:
        """Forget what has ended, for ever."""
        while True:
            await anyio.sleep(SWEEP_S)
            self._windows.sweep(self._now())

    def close(self) -> None:
        """There is nothing to let go of."""
