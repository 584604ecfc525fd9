"""Sealed secrets: they open with the right key in the right place, and otherwise say nothing."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.deploy.seal import Sealer
from kythera.model.envelope import HEAD_BYTES
from kythera.model.errors import KytheraError

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
PLACE = "0" * 32 + "/worker/TOKEN"
SECRET = "correct horse battery staple"


@given(text=st.text(), context=st.text())
def test_what_is_sealed_opens_in_its_place(text: str, context: str) -> None:
    """Any text, any place."""
    sealer = Sealer(KEY)
    assert sealer.open(sealer.seal(text, context), context) == text


def test_two_seals_of_one_text_differ() -> None:
    """A nonce is never used twice, so that equal secrets cannot be told to be equal."""
    sealer = Sealer(KEY)
    assert len({sealer.seal(SECRET, PLACE) for _ in range(200)}) == 200


def refused(sealed: str, context: str = PLACE, key: bytes = KEY) -> str:
    """Return the error of an envelope that must not open, having looked for plaintext in it."""
    with pytest.raises(KytheraError) as caught:
        Sealer(key).open(sealed, context)
    told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert SECRET not in told
    assert "correct" not in told
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


def test_another_key_does_not_open_it() -> None:
    """The error says that it was another key, and what to do."""
    text = refused(Sealer(KEY).seal(SECRET, PLACE), key=OTHER)
    assert "another key" in text
    assert "wrangler secret put" in text


def test_another_place_does_not_open_it() -> None:
    """An envelope copied to another worker or name is of no use there."""
    sealed = Sealer(KEY).seal(SECRET, PLACE)
    for place in (PLACE + "2", PLACE.replace("worker", "thief"), ""):
        assert "another place" in refused(sealed, place)


@given(position=st.integers(0), change=st.integers(1, 255))
def test_a_changed_byte_does_not_open(position: int, change: int) -> None:
    """Whichever byte is changed: format, key id, nonce, text or tag."""
    envelope = bytearray(base64.b64decode(Sealer(KEY).seal(SECRET, PLACE)))
    envelope[position % len(envelope)] ^= change
    with pytest.raises(KytheraError) as caught:
        Sealer(KEY).open(base64.b64encode(envelope).decode(), PLACE)
    assert SECRET not in str(caught.value)


@given(cut=st.integers(0, HEAD_BYTES + 15))
def test_a_cut_envelope_is_damaged(cut: int) -> None:
    """Too short to hold a tag: refused before anything is decrypted."""
    envelope = base64.b64decode(Sealer(KEY).seal(SECRET, PLACE))[:cut]
    assert "damaged" in refused(base64.b64encode(envelope).decode())


@given(garbage=st.text())
def test_garbage_does_not_open(garbage: str) -> None:
    """Not base64, not ASCII, not ours."""
    with pytest.raises(KytheraError):
        Sealer(KEY).open(garbage, PLACE)


def test_a_sealer_does_not_show_its_key() -> None:
    """Printed by accident, it gives nothing away."""
    sealer = Sealer(KEY)
    assert KEY.hex() not in repr(sealer) + repr(vars(sealer))
    assert repr(KEY) not in repr(vars(sealer))
