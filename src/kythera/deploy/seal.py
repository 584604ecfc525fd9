"""Secrets at rest: AES-256-GCM envelopes that open only with this platform's keys and only in the
place they were sealed for.

The context ("account/worker/NAME") is authenticated with the text, so that a sealed value copied
into another worker's binding does not open there. Errors never carry any of the plaintext.

Envelope, base64: format (1 byte), key id (4), nonce (12), ciphertext with tag.
"""

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kythera.ground.chance import SystemChance
from kythera.model.envelope import (
    FORMAT,
    HEAD_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    key_id,
    sealed_with,
    unpacked,
)
from kythera.model.errors import KytheraError, SetupError

AGAIN = "Set the secret again: wrangler secret put NAME."


class Sealer:
    """One key, ready to seal and open."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SetupError(f"The secrets' key has {len(key)} bytes; it must have {KEY_BYTES}.")
        self._cipher = AESGCM(key)
        self.key_id = key_id(key)

    def seal(self, text: str, context: str) -> str:
        """Return `text` as an envelope that opens in `context` alone."""
        # Never a seeded chance: a nonce used twice gives the text away.
        nonce = bytes.fromhex(SystemChance().hex(2 * NONCE_BYTES))
        head = FORMAT + bytes.fromhex(self.key_id) + nonce
        sealed = self._cipher.encrypt(nonce, text.encode(), _bound(head, context))
        return base64.b64encode(head + sealed).decode()

    def open(self, sealed: str, context: str) -> str:
        """Return the text of an envelope; KytheraError for another key, context or content."""
        envelope = unpacked(sealed)
        if envelope is None:
            raise KytheraError(f"What is sealed at {context} is damaged.", remedy=AGAIN)
        head, rest = envelope[:HEAD_BYTES], envelope[HEAD_BYTES:]
        if sealed_with(sealed) != self.key_id:
            raise other_key(context)
        try:
            return self._cipher.decrypt(head[-NONCE_BYTES:], rest, _bound(head, context)).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise KytheraError(
                f"What is sealed at {context} does not open: it was changed, or moved here from "
                "another place.",
                remedy=AGAIN,
            ) from None


def other_key(context: str) -> KytheraError:
    """Return what is said of an envelope whose key is not here."""
    return KytheraError(
        f"What is sealed at {context} was sealed with another key.",
        remedy=f"Restore that key, or replace the value. {AGAIN}",
    )


def _bound(head: bytes, context: str) -> bytes:
    return b"kythera sealed\0" + head + context.encode()
