"""Real asynchronous code on virtual time: a coroutine whose every wait is one of ours.

Code that awaits nothing but what is handed to it (a log, a mesh client) needs no event loop: its
waits are `Wait`s, each begun with a way to be told its outcome. A task ends with its machine.
"""

import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from kythera.sim.fleet_machine import Host

T = TypeVar("T")
Tell = Callable[[Any], None]


class Wait(Generic[T]):
    """Something to wait for; `begin` is called with whom to tell what it came to, once."""

    def __init__(self, begin: Callable[[Callable[[T], None]], None]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Callable[[Tell], None], T, T]:
        """Hand `begin` to the task, and return what it is told."""
        return (yield self._begin)


def pause(host: Host, delay_s: float) -> Wait[None]:
    """Wait for some time on a machine."""
    return Wait(lambda tell: host.after(delay_s, lambda: tell(None)))


class Stopped(BaseException):
    """Thrown into a task that ends where it stands."""


class Task:
    """A coroutine that runs on a machine until it ends, is stopped, or the machine dies."""

    def __init__(
        self,
        host: Host,
        work: Coroutine[Any, Any, None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self._host = host
        self._work = work
        self._failed = failed
        self.alive = True
        self._running = False

    def start(self) -> "Task":
        """Run up to the first wait."""
        self._host.ends.append(self.stop)
        self._step(None)
        return self

    def stop(self) -> None:
        """End it where it stands."""
        if not self.alive:
            return
        self.alive = False
        if not self._running:
            with contextlib.suppress(Stopped, StopIteration):
                self._work.throw(Stopped())

    def _step(self, value: Any) -> None:
        if not self.alive:
            return
        self._running = True
        begin = None
        try:
            begin = self._work.send(value)
        except StopIteration:
            self.alive = False
        except Exception as error:  # noqa: BLE001 (told to whoever began the task)
            self.alive = False
            self._tell(error)
        finally:
            self._running = False
        if begin is not None:
            self._go_on(begin)

    def _tell(self, error: Exception) -> None:
        if self._failed is None:
            raise error
        self._failed(error)

    def _go_on(self, begin: Callable[[Tell], None]) -> None:
        if self.alive:
            self._wait(begin)
        else:  # stopped by what it did itself
            with contextlib.suppress(Stopped, StopIteration):
                self._work.throw(Stopped())

    def _wait(self, begin: Callable[[Tell], None]) -> None:
        told: list[bool] = []

        def tell(value: Any) -> None:
            if not told:
                told.append(True)
                # Never within the call that began the wait: the task must have been left first.
                self._host.time.after(0.0, lambda: self._host.run(lambda: self._step(value)))

        begin(tell)


class Mailbox(Generic[T]):
    """What arrives for a task, in the order of arrival."""

    def __init__(self, host: Host) -> None:
        self.open = True
        self._host = host
        self._arrived: list[T] = []
        self._waiting: Callable[[], None] | None = None

    def put(self, item: T) -> None:
        """Something arrives."""
        self._arrived.append(item)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting()

    def close(self) -> None:
        """Nobody listens any more."""
        self.open = False

    async def get(self, within_s: float) -> T | None:
        """Return what arrived first, None when nothing came in time."""
        if not self._arrived:
            await Wait[None](lambda tell: self._begin(tell, within_s))
        return self._arrived.pop(0) if self._arrived else None

    def _begin(self, tell: Callable[[None], None], within_s: float) -> None:
        self._waiting = lambda: tell(None)
        self._host.after(within_s, lambda: tell(None))
