"""What a sealed secret says of itself without being opened: with which key it was sealed.

Pure. A key's id tells keys apart without telling anything of them: four bytes of a digest over a
key of 256 random bits.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping

from kythera.model.records import Resource, Version

FORMAT = b"\x01"
KEY_BYTES = 32
KEY_ID_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
HEAD_BYTES = len(FORMAT) + KEY_ID_BYTES + NONCE_BYTES


def key_id(key: bytes) -> str:
    """Return a key's id, eight hexadecimal digits."""
    return hashlib.sha256(b"kythera key id\0" + key).digest()[:KEY_ID_BYTES].hex()


def unpacked(sealed: str) -> bytes | None:
    """Return an envelope's bytes, or None when it is damaged."""
    try:
        envelope = base64.b64decode(sealed.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    whole = len(envelope) >= HEAD_BYTES + TAG_BYTES and envelope[:1] == FORMAT
    return envelope if whole else None


def sealed_with(sealed: str) -> str:
    """Return the id of the key that an envelope was sealed with; empty when it is damaged."""
    envelope = unpacked(sealed)
    return "" if envelope is None else envelope[1 : 1 + KEY_ID_BYTES].hex()


def mark_of(fields: Mapping[str, str]) -> str:
    """Return what is equal in two versions that have one secret as it was set once, and stays so when
    it is sealed anew; it follows from the first envelope."""
    return fields.get("mark") or hashlib.sha256(fields["sealed"].encode()).hexdigest()[:32]


def keys_used(record: Version | Resource) -> set[str]:
    """Return the ids of the keys that a record's secrets are sealed with."""
    if isinstance(record, Resource):
        sealed = [record.fields.get("sealed")]
    else:
        sealed = [b.fields.get("sealed") for b in record.bindings if b.type == "secret_text"]
    return {sealed_with(text) for text in sealed if isinstance(text, str)} - {""}
