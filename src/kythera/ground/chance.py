"""Chance, as something that is handed in: identifiers, tokens and jitter come from a `Chance`.

`SystemChance` is unpredictable (tokens are secrets); `SeededChance` repeats from its seed, for
simulations and tests, and must never make a token that guards anything.
"""

import random
import secrets
import uuid
from typing import Protocol

TOKEN_BYTES = 30


class Chance(Protocol):
    """What may be drawn by lot."""

    def hex(self, n_digits: int) -> str:
        """Return `n_digits` lower-case hexadecimal digits."""
        ...

    def uuid(self) -> str:
        """Return a random (version 4) UUID."""
        ...

    def token(self) -> str:
        """Return a secret of 40 characters that is safe in a URL and a header."""
        ...

    def uniform(self, a: float, b: float) -> float:
        """Return a number between `a` and `b`."""
        ...


class SystemChance:
    """Chance from the kernel's random numbers."""

    def hex(self, n_digits: int) -> str:
        """Return `n_digits` unpredictable hexadecimal digits."""
        return secrets.token_hex((n_digits + 1) // 2)[:n_digits]

    def uuid(self) -> str:
        """Return an unpredictable UUID."""
        return str(uuid.uuid4())

    def token(self) -> str:
        """Return an unpredictable token."""
        return secrets.token_urlsafe(TOKEN_BYTES)

    def uniform(self, a: float, b: float) -> float:
        """Return a number between `a` and `b`, for jitter."""
        return random.uniform(a, b)


class SeededChance:
    """Chance that repeats: equal seeds give equal histories."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def hex(self, n_digits: int) -> str:
        """Return the seed's next hexadecimal digits."""
        return "".join(self._random.choices("0123456789abcdef", k=n_digits))

    def uuid(self) -> str:
        """Return the seed's next UUID."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def token(self) -> str:
        """Return the seed's next token; it guards nothing."""
        return self.hex(40)

    def uniform(self, a: float, b: float) -> float:
        """Return the seed's next number between `a` and `b`."""
        return self._random.uniform(a, b)
