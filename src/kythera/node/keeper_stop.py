"""The ordered end: who is told first, how long each may take, and that nobody is left.

HAProxy stops first (it finishes what it has), then the cells, the API, the agent, and the log
last: each order's children get their stop signal, and the next order is told when they have ended
or their part of `stop_ms` is over; then they are killed.
"""

import signal
from collections.abc import Callable, Iterable

from kythera.ground.journal import Journal
from kythera.node.keeper_children import Children, HeldChild
from kythera.node.keeper_loop import Loop, Timer
from kythera.node.keeper_protocol import STOP_CELLS

FIRST_SHARE = 0.5
"""Of stop_ms: for the first order, the front, whose requests are under way."""
REPEAT_S = 0.25
"""HAProxy loses a soft stop that reaches it in the first 0.1 s of a worker's life, and takes no
notice of a second one; so signals other than SIGTERM, which some take as `at once`, are repeated."""
LAST_SHARE = 0.95
"""Of stop_ms: when the last order is killed; the rest is for the kernel to clear away."""


def deadlines(orders: Iterable[int], stop_ms: int) -> dict[int, float]:
    """Return for each order, ascending, how many seconds after the beginning it is killed. Pure."""
    sorted_orders = sorted(set(orders))
    step = (LAST_SHARE - FIRST_SHARE) / max(1, len(sorted_orders) - 1)
    return {
        order: stop_ms / 1000 * (FIRST_SHARE + step * place)
        for place, order in enumerate(sorted_orders)
    }


class OrderedStop:
    """Ends all children, order by order; `finished` when none is left."""

    def __init__(self, loop: Loop, children: Children, journal: Journal, stop_ms: int) -> None:
        self._loop = loop
        self._children = children
        self._journal = journal
        self._stop_ms = stop_ms
        self._began_at: float | None = None
        self._due: dict[int, float] = {}
        self._told: set[int] = set()
        """Pids that got their stop signal."""
        self._timer: Timer | None = None
        self.order: int | None = None
        """The order that is ending now; no child of this or a lower one may start."""

    @property
    def began(self) -> bool:
        """Whether the end has begun."""
        return self._began_at is not None

    @property
    def finished(self) -> bool:
        """Whether the end has come: no child is left."""
        return self.began and not list(self._children)

    def begin(self) -> None:
        """Begin with the first order."""
        self._began_at = self._loop.now()
        # The front may still wake cells, so theirs is an order even when none runs now.
        orders = {STOP_CELLS, *(child.stop_order for child in self._children)}
        self._due = deadlines(orders, self._stop_ms)
        self._loop.after(REPEAT_S, self._repeat)
        self.go_on()

    def go_on(self) -> None:
        """Tell the lowest order that still lives, once; call again whenever a child has ended."""
        living = list(self._children)
        if self._began_at is None or not living:
            return
        order = min(child.stop_order for child in living)
        concerned = [child for child in living if child.stop_order == order]
        for child in concerned:
            if child.pid not in self._told:
                self._told.add(child.pid)
                child.signal(child.stop_signal)
        if order != self.order:
            self.order = order
            self._journal.say("stopping", order=order, processes=len(concerned))
            last_s = self._stop_ms / 1000 * LAST_SHARE
            self._arm(self._began_at + self._due.get(order, last_s), lambda: self._kill(order))

    def _repeat(self) -> None:
        for child in self._children:
            if child.pid in self._told and child.stop_signal != signal.SIGTERM:
                child.signal(child.stop_signal)
        if not self.finished:
            self._loop.after(REPEAT_S, self._repeat)

    def _arm(self, when: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(when - self._loop.now(), callback)

    def _kill(self, order: int) -> None:
        late = [child for child in self._children if child.stop_order <= order]
        self._journal.warn("killed_at_deadline", processes=[child.name for child in late])
        kill(late)

    def kill_all(self) -> None:
        """End everything now."""
        kill(self._children)


def kill(children: Iterable[HeldChild]) -> None:
    """Kill children with all they started; the loop reaps them."""
    for child in children:
        child.kill_group()
