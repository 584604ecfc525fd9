"""Secrets at rest: AES-256-GCM envelopes that open only with this platform's key and only in the
place they were sealed for.

The context ("account/worker/NAME") is authenticated with the text, so that a sealed value copied
into another worker's binding does not open there. Errors never carry any of the plaintext.

Envelope, base64: format (1 byte), key id (4), nonce (12), ciphertext with tag.
"""

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kythera.ground.chance import SystemChance
from kythera.model.errors import KytheraError, SetupError

FORMAT = b"\x01"
KEY_BYTES = 32
KEY_ID_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
HEAD_BYTES = len(FORMAT) + KEY_ID_BYTES + NONCE_BYTES
AGAIN = "Set the secret again: wrangler secret put NAME."


class Sealer:
    """One key, ready to seal and open."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SetupError(f"The secrets' key has {len(key)} bytes; it must have {KEY_BYTES}.")
        self._cipher = AESGCM(key)
        self.key_id = hashlib.sha256(b"kythera key id\0" + key).digest()[:KEY_ID_BYTES]
        """Tells keys apart without telling anything of them."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the key file: base64 of 32 bytes, readable by its owner alone."""
        try:
            mode = path.stat().st_mode
            text = path.read_bytes()
        except OSError as error:
            raise SetupError(
                f"The secrets' key {path} cannot be read: {error.strerror}.",
                remedy="`kythera up` makes it; restore it from a backup if it was lost.",
            ) from None
        if mode & 0o077:
            raise SetupError(
                f"The secrets' key {path} can be read by others.", remedy=f"chmod 600 {path}"
            )
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except binascii.Error:
            raise SetupError(
                f"The secrets' key {path} is not base64.", remedy="Restore it from a backup."
            ) from None

    def seal(self, text: str, context: str) -> str:
        """Return `text` as an envelope that opens in `context` alone."""
        # Never a seeded chance: a nonce used twice gives the text away.
        head = FORMAT + self.key_id + bytes.fromhex(SystemChance().hex(2 * NONCE_BYTES))
        sealed = self._cipher.encrypt(head[-NONCE_BYTES:], text.encode(), _bound(head, context))
        return base64.b64encode(head + sealed).decode()

    def open(self, sealed: str, context: str) -> str:
        """Return the text of an envelope; KytheraError for another key, context or content."""
        try:
            envelope = base64.b64decode(sealed.encode(), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            envelope = b""
        if len(envelope) < HEAD_BYTES + TAG_BYTES or envelope[:1] != FORMAT:
            raise KytheraError(f"What is sealed at {context} is damaged.", remedy=AGAIN)
        head, rest = envelope[:HEAD_BYTES], envelope[HEAD_BYTES:]
        if head[1 : 1 + KEY_ID_BYTES] != self.key_id:
            raise KytheraError(
                f"What is sealed at {context} was sealed with another key.",
                remedy=f"Restore that key, or replace the value. {AGAIN}",
            )
        try:
            return self._cipher.decrypt(head[-NONCE_BYTES:], rest, _bound(head, context)).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise KytheraError(
                f"What is sealed at {context} does not open: it was changed, or moved here from "
                "another place.",
                remedy=AGAIN,
            ) from None


def _bound(head: bytes, context: str) -> bytes:
    return b"kythera sealed\0" + head + context.encode()
