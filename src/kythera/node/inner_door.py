"""The machine's inner door, as one of its stores: a socket that cells with service bindings are shown.

HAProxy serves it (`route.services`); the keeper owns it, so that what cells ask waits while HAProxy is
down, and so that a sandbox which has it mounted never holds a socket that nobody listens on.
"""

import anyio

from kythera.model.catalog import Catalog
from kythera.node.keeper_client import Exited
from kythera.run.bindings_services import SERVICES


class InnerDoor:
    """Nothing has to be kept alive here: the front is, by its own loop."""

    name = SERVICES

    async def run(self) -> None:
        """Do nothing, for ever."""
        await anyio.sleep_forever()

    def note(self, event: Exited) -> None:
        """Nothing of its own ends."""

    def records_changed(self, catalog: Catalog) -> None:
        """The front's plan holds what it needs."""
