"""The machine's cache, and what the records say shall be in it no more.

The agent writes each account's purges to a file beside the cache; its program reads it before it
answers anything. So a purge holds also for a cache that is down, or starts later.
"""

from kythera.ground.files import write_atomically
from kythera.model.catalog import Catalog
from kythera.model.records import Resource
from kythera.node.python_store import PythonStore
from kythera.store.cache_purges import FILE, RECORD, encode, purges_of


class CachePart(PythonStore):
    """The cache's process, and its file of purges."""

    _written: bytes = b""

    def records_changed(self, catalog: Catalog) -> None:
        """Write down what is to be purged."""
        found = [
            record
            for account in catalog.accounts()
            if isinstance(record := catalog.resource(account.id, *RECORD), Resource)
        ]
        text = encode({record.account: purges_of(record) for record in found})
        if found and text != self._written:
            folder = self._layout.cache
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder / FILE, text)
            self._written = text
