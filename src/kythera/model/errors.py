"""What can go wrong, as values that a person can act on.

    KytheraError            something expected failed: what, where, what to do next
    ├── Refusal             the API says no: Cloudflare's code, an HTTP status, a readable message
    ├── StoreUnavailable    the log or this machine's copy cannot be used now
    │   └── Conflict        somebody else wrote the record first; read again and retry
    └── SetupError          this host lacks something; the message names what to install

Impossible states are `assert`s: they crash the task and the supervisor restarts it.
"""


class KytheraError(Exception):
    """An expected failure. `str(error)` says what and where; `remedy` says what to do next."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Return message and remedy as one paragraph."""
        return f"{self.message} {self.remedy}".strip()


class Refusal(KytheraError):
    """A call the API refuses: `code` is Cloudflare's (wrangler acts on it), `status` is HTTP's."""

    def __init__(self, code: int, message: str, *, status: int = 400, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.status = status


class StoreUnavailable(KytheraError):
    """The log did not acknowledge, or the local copy has not caught up, within the deadline."""


class Conflict(StoreUnavailable):
    """The record changed between our read and our write."""


class SetupError(KytheraError):
    """The host lacks a program, a permission or a free port."""
