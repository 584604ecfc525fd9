"""This machine's keys for secrets, ready to seal with one and to open with any.

Promises: what another process adds to the key files is noticed when it is needed; a key that was
dropped there is forgotten here soon after (`look`), not in the middle of what still uses it. With
which key is sealed is not decided here: `active` says its id. Refuses (StoreUnavailable) to seal
with a key that this machine has not been given yet: rather later than with another one.

`seal` and `open` may be called in any thread.
"""

from collections.abc import Callable

from kythera.deploy.seal import AGAIN, Sealer
from kythera.ground.files import Stamp
from kythera.ground.key_files import KeyFiles
from kythera.model.envelope import key_id, sealed_with
from kythera.model.errors import KytheraError, SetupError, StoreUnavailable

Stamps = tuple[Stamp | None, ...]


def _first() -> str:
    return ""


class Keyring:
    """All keys of this machine. Raises SetupError when they cannot be read at first."""

    def __init__(self, files: KeyFiles, active: Callable[[], str] = _first) -> None:
        self.files = files
        self._active = active
        """Returns the id of the key to seal with; empty: the first one. Called in any thread."""
        self._sealers: dict[str, Sealer] = {}
        self._read: Stamps = ()
        self._seen: Stamps = ()
        self.read_anew()

    def read_anew(self) -> None:
        """Take the files' keys as they are now. Raises SetupError, keeping what there was."""
        stamps = self.files.stamps()
        keys = self.files.read()
        self._sealers = {key_id(key): Sealer(key) for key in keys}
        self._read = self._seen = stamps

    def add(self, key: bytes) -> None:
        """Keep another key, at once. Raises KytheraError where the operator gives them."""
        self.files.add(key)
        self.read_anew()

    def look(self) -> None:
        """Take changed files in, one look later: what was read before may still be in use."""
        stamps = self.files.stamps()
        if stamps != self._read and stamps == self._seen:
            self.read_anew()
        self._seen = stamps

    def ids(self) -> tuple[str, ...]:
        """Return the ids of the keys that are held, the oldest first."""
        return tuple(self._sealers)

    def holds(self, key: str) -> bool:
        """Tell whether a key is here, as of now."""
        return self._find(key) is not None

    def _find(self, key: str) -> Sealer | None:
        if key not in self._sealers and self.files.stamps() != self._read:
            self.read_anew()
        return self._sealers.get(key)

    def seal(self, text: str, context: str) -> str:
        """Return `text` as an envelope that opens in `context` alone."""
        active = self._active() or next(iter(self._sealers))
        sealer = self._find(active)
        if sealer is None:
            raise StoreUnavailable(
                f"This machine has not been given the key {active} yet, with which secrets are"
                " sealed.",
                remedy="It fetches it by itself; see `kythera key list`. Or ask another machine.",
            )
        return sealer.seal(text, context)

    def open(self, sealed: str, context: str) -> str:
        """Return the text of an envelope. Raises KytheraError."""
        wanted = sealed_with(sealed)
        try:
            sealer = self._find(wanted) if wanted else next(iter(self._sealers.values()))
        except SetupError:
            sealer = None
        if sealer is None:
            raise KytheraError(
                f"What is sealed at {context} was sealed with another key ({wanted}) than this"
                f" machine holds ({', '.join(self._sealers)}).",
                remedy="A machine of a fleet fetches it by itself; see `kythera key list`. Else"
                f" restore that key, or replace the value. {AGAIN}",
            )
        return sealer.open(sealed, context)
