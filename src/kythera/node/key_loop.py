"""The agent's side of the keys for secrets: a cell starts when the keys of its secrets are here, and a
key that was dropped is forgotten.

The control process fetches and drops keys, in the file; this one reads it. A machine that comes back
has records that are sealed with a key it has not been given yet: who starts a cell waits for it, but
not for ever.
"""

from contextlib import suppress

import anyio

from kythera.deploy.keyring import Keyring
from kythera.model.envelope import keys_used
from kythera.model.errors import KytheraError
from kythera.model.records import Version

LOOK_S = 5.0
POLL_S = 0.05


class KeyLoop:
    """Reads the key files when that is needed, and now and then."""

    def __init__(self, keyring: Keyring, wait_ms: int) -> None:
        self._keyring = keyring
        self._wait_ms = wait_ms

    async def prepare(self, version: Version) -> None:
        """Wait, but not for ever, until every secret of a version can be opened."""
        wanted = keys_used(version)
        with anyio.move_on_after(self._wait_ms / 1000):
            while not all(self._holds(key) for key in wanted):
                await anyio.sleep(POLL_S)

    def _holds(self, key: str) -> bool:
        try:
            return self._keyring.holds(key)
        except KytheraError:
            return False  # the file cannot be read now; opening the secret will say so

    async def run(self) -> None:
        """Forget what was dropped, for ever."""
        while True:
            with suppress(KytheraError):  # what was read before still opens what it opened
                self._keyring.look()
            await anyio.sleep(LOOK_S)
