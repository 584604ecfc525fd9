"""The keeper's loop: descriptors, timers and signals, one after the other, on one thread.

Not AnyIO, on purpose: the keeper forks, and what it does not import need not be copied. A cell's
cold start pays for every page. There are no tasks here, so there is nothing to nest: a callback
does one small thing and returns.
"""

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
from collections.abc import Callable, Iterable

from kythera.ground.clock import SystemClock

Callback = Callable[[], None]


class Timer:
    """A callback that will run once, unless it is cancelled."""

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not run it."""
        self.callback = None


class Loop:
    """Waits for whatever comes first and calls whom it concerns."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._clock = SystemClock()
        self._signalled, self._wakeup = socket.socketpair()

    def now(self) -> float:
        """Return the monotonic clock in seconds."""
        return self._clock.monotonic()

    def unix_time(self) -> float:
        """Return the calendar's clock in seconds."""
        return self._clock.now()

    def watch(self, descriptor: int, on_readable: Callback, *, write: bool = False) -> None:
        """Call when a descriptor can be read (with `write`: or written); replaces what was set."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, on_readable)
        else:
            self._selector.register(descriptor, events, on_readable)

    def forget(self, descriptor: int) -> None:
        """Stop watching; call it before the descriptor is closed."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def after(self, delay_s: float, callback: Callback) -> Timer:
        """Call once, that much later."""
        timer = Timer(self.now() + max(0.0, delay_s), callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def every(self, period_s: float, callback: Callback) -> None:
        """Call again and again, for as long as the loop lives."""

        def again() -> None:
            self.after(period_s, again)
            callback()

        self.after(period_s, again)

    def on_signals(
        self, signals: Iterable[signal.Signals], callback: Callable[[int], None]
    ) -> None:
        """Call with a signal's number from within the loop, never between two lines."""
        self._signalled.setblocking(False)
        self._wakeup.setblocking(False)
        for signum in signals:
            signal.signal(signum, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)

        def arrived() -> None:
            for signum in self._signalled.recv(64):
                callback(signum)

        self.watch(self._signalled.fileno(), arrived)

    def step(self, wait_s_max: float = 3600.0) -> None:
        """Wait for the next thing (no longer than told) and do all that is due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        wait_s = wait_s_max
        if self._timers:
            wait_s = min(wait_s, max(0.0, self._timers[0][0] - self.now()))
        for key, _ in self._selector.select(wait_s):
            # A callback before this one may have closed it, or put another in its place.
            current = self._selector.get_map().get(key.fd)
            if current is not None and current.data is key.data:
                key.data()
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    def close(self) -> None:
        """Give signals back to Python and close what the loop itself holds."""
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        self._selector.close()
        self._signalled.close()
        self._wakeup.close()
