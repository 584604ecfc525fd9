"""What a door says that it has refused, for tests."""

import anyio

from kythera.route.door_watch import DoorWatch
from tests.route.doors import Door


class Counted:
    """The counters of a door, as the agent reads them."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.watch = DoorWatch(door.options.limits)

    async def now(self) -> dict[str, int]:
        """Return the reasons that held, with how often."""
        await self.watch.count(await self.door.front.asks(), self.door.front.owner)
        return {reason: n for reason, n in self.watch.refusals.totals().items() if n}

    async def is_(self, **wanted: int) -> None:
        """Wait until exactly this has been counted."""
        try:
            with anyio.fail_after(5):
                while await self.now() != wanted:
                    await anyio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{await self.now()} instead of {wanted}") from None

    async def end_slow_for_ever(self, every_s: float = 0.2) -> None:
        """Look at who is slow, as the agent does."""
        while True:
            await self.watch.end_slow(await self.door.front.asks(), anyio.current_time())
            await anyio.sleep(every_s)
