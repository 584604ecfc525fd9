"""The doors that HAProxy serves for this machine's cells, as stores: sockets that cells are shown.

`services` leads to other workers (`route.services`), `fleet` to data that other machines keep
(`route.mesh_data`). The keeper owns the sockets, so that what cells ask waits while HAProxy is down, and
so that a sandbox which has one mounted never holds a socket that nobody listens on.
"""

import anyio

from kythera.model.catalog import Catalog
from kythera.node.keeper_client import Exited


class InnerDoor:
    """Nothing has to be kept alive here: the front is, by its own loop."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self) -> None:
        """Do nothing, for ever."""
        await anyio.sleep_forever()

    def note(self, event: Exited) -> None:
        """Nothing of its own ends."""

    def records_changed(self, catalog: Catalog) -> None:
        """The front's plan holds what it needs."""
