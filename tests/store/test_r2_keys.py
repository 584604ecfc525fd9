"""R2's keys as the engine's names."""

from hypothesis import given
from hypothesis import strategies as st

from kythera.store.r2_keys import KEY_BYTES_MAX, engine_name, fits, key_of

KEYS = st.text(alphabet=st.sampled_from("a./[\\]-0Z\x01ü\U0001f600"), min_size=1, max_size=12)


@given(KEYS)
def test_a_name_is_read_back_as_its_key(key: str) -> None:
    """Goal: nothing is lost, and no name has a folder in it."""
    name = engine_name(key)
    assert key_of(name) == key
    assert not set(name) & set("/\\")
    assert name not in (".", "..")


@given(KEYS, KEYS)
def test_names_sort_as_their_keys_and_share_their_beginnings(one: str, other: str) -> None:
    """Goal: the engine's lists, prefixes and page borders are those of the keys."""
    as_names = engine_name(one).encode() < engine_name(other).encode()
    assert as_names == (one.encode() < other.encode())
    assert engine_name(one).startswith(engine_name(other)) == one.startswith(other)


def test_a_key_may_have_as_many_bytes_as_cloudflares() -> None:
    """Goal: 1,024 bytes; what the engine writes as two letters counts twice."""
    assert fits("k" * KEY_BYTES_MAX)
    assert not fits("k" * (KEY_BYTES_MAX + 1))
    assert not fits("ü" * (KEY_BYTES_MAX // 2 + 1))
    assert not fits("." * (KEY_BYTES_MAX // 2 + 1))
    assert not fits("")
