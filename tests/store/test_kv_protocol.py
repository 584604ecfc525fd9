"""workerd's KV protocol: addresses, limits and words."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.limits import Limits
from kythera.store import kv_protocol as protocol
from kythera.store.kv_copy import Listed, Page
from kythera.store.kv_entry import Entry, Head
from kythera.store.kv_protocol import Failed

LIMITS = Limits()
NOW = 1_795_000_000.5


@given(st.text(min_size=1, max_size=100))
def test_any_key_comes_back_from_its_address(text: str) -> None:
    """Goal: no key is read as another one. Method: what workerd writes, read back."""
    key = text.encode(errors="replace")
    told = b"/" + b"".join(b"%%%02X" % byte for byte in key)
    target = protocol.read_target(told + b"?urlencoded=true&cache_ttl=60")
    assert target.key == key
    assert target.parameters == {"urlencoded": "true", "cache_ttl": "60"}


def test_a_key_that_is_no_text_is_refused() -> None:
    """Goal: what could not be listed again is never written."""
    with pytest.raises(Failed, match="Invalid key encoding"):
        _ = protocol.read_target(b"/%ff").key


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        (b"", 400, "Key names must not be empty"),
        (b"..", 400, 'Illegal key name ".."'),
        (b"k" * 513, 414, "UTF-8 encoded length of 513 exceeds key length limit of 512."),
    ],
)
def test_what_cannot_be_a_key_is_refused_in_cloudflares_words(
    key: bytes, status: int, words: str
) -> None:
    """Goal: a worker reads the same error here as there."""
    with pytest.raises(Failed, match=words.replace(".", r"\.")) as found:
        protocol.check_key(key, LIMITS)
    assert found.value.status == status
    protocol.check_key(b"k" * 512, LIMITS)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"expiration_ttl": "59"}, "Invalid expiration_ttl of 59. Expiration TTL must be at least"),
        ({"expiration_ttl": "x"}, "Invalid expiration_ttl of x. Please specify integer greater"),
        ({"expiration": "1"}, "greater than the current number of seconds"),
        ({"expiration": str(int(NOW) + 59)}, "must be at least 60 seconds in the future"),
    ],
)
def test_an_expiration_that_is_too_early_is_refused(parameters: dict[str, str], words: str) -> None:
    """Goal: nobody believes in an expiration that Cloudflare would refuse."""
    with pytest.raises(Failed, match=words):
        protocol.expiration(parameters, NOW, LIMITS)


def test_an_expiration_is_when_the_key_goes() -> None:
    """Goal: both ways to say it mean the same; the relative one wins, as at Cloudflare."""
    assert protocol.expiration({}, NOW, LIMITS) == 0
    assert protocol.expiration({"expiration_ttl": "60"}, NOW, LIMITS) == 1_795_000_060
    assert protocol.expiration({"expiration": "1795000100"}, NOW, LIMITS) == 1_795_000_100
    both = {"expiration": "1795000100", "expiration_ttl": "70"}
    assert protocol.expiration(both, NOW, LIMITS) == 1_795_000_070


def test_values_and_metadata_have_limits_to_the_byte() -> None:
    """Goal: the limits are Cloudflare's, not one more."""
    protocol.check_value(25 * 1024 * 1024, LIMITS)
    with pytest.raises(Failed, match="Value length of 26214401 exceeds limit of 26214400"):
        protocol.check_value(25 * 1024 * 1024 + 1, LIMITS)
    protocol.check_metadata(b'"' + b"m" * 1022 + b'"', LIMITS)
    with pytest.raises(Failed, match="Metadata length of 1025 exceeds limit of 1024"):
        protocol.check_metadata(b'"' + b"m" * 1023 + b'"', LIMITS)
    with pytest.raises(Failed, match="valid JSON"):
        protocol.check_metadata(b"{", LIMITS)


@pytest.mark.parametrize(("told", "words"), [("0", "greater than 0"), ("1001", "less than 1000")])
def test_a_list_has_a_limit_of_its_own(told: str, words: str) -> None:
    """Goal: a list is bounded."""
    with pytest.raises(Failed, match=f"Invalid key_count_limit of {told}.*{words}"):
        protocol.listing({"key_count_limit": told}, LIMITS)
    with pytest.raises(Failed, match="Invalid cursor"):
        protocol.listing({"cursor": "a"}, LIMITS)


def test_a_page_of_a_list_leads_to_the_next() -> None:
    """Goal: metadata are text in a list, as the binding wants; the cursor comes back as it was."""
    page = Page([Listed(b"k\xc3\xa9", 7, b'{"a":1}'), Listed(b"z", 0, b"")], b"z\xff")
    told = msgspec.json.decode(protocol.page_json(page))
    assert told["keys"] == [{"name": "ké", "expiration": 7, "metadata": '{"a":1}'}, {"name": "z"}]
    assert not told["list_complete"]
    assert protocol.listing({"cursor": told["cursor"]}, LIMITS).cursor == b"z\xff"


def test_many_keys_are_answered_at_once() -> None:
    """Goal: text and JSON, with metadata or without; null for what is not there."""
    entries: dict[str, Entry | None] = {"a": Entry(Head(b"a", 0, b'{"m":1}', "", 2), b"11")}
    asked = protocol.bulk(b'{"keys":["a","b"]}', LIMITS)
    answer = protocol.bulk_json(asked, entries, lambda entry: entry.value, LIMITS)
    assert answer == b'{"a":"11","b":null}'
    asked = protocol.bulk(b'{"keys":["a"],"type":"json","withMetadata":true}', LIMITS)
    answer = protocol.bulk_json(asked, entries, lambda entry: entry.value, LIMITS)
    assert answer == b'{"a":{"value":11,"metadata":{"m":1}}}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "Invalid JSON"),
        (b'{"keys":[]}', "You must request a minimum of 1 key"),
        (b'{"keys":["a"],"type":"stream"}', '"stream" is not a valid type. Use "json" or "text"'),
        (msgspec.json.encode({"keys": ["k"] * 101}), "You can request a maximum of 100 keys"),
    ],
)
def test_a_wrong_question_for_many_keys_is_refused(body: bytes, words: str) -> None:
    """Goal: Cloudflare's words again."""
    with pytest.raises(Failed, match=words):
        protocol.bulk(body, LIMITS)


def test_many_keys_have_a_size_together_and_must_be_what_is_asked_for() -> None:
    """Goal: no answer without bounds; JSON that is none says so."""
    large = Entry(Head(b"a", 0, b"", "", LIMITS.kv_bulk_get_bytes_max + 1), b"")
    asked = protocol.bulk(b'{"keys":["a"]}', LIMITS)
    with pytest.raises(Failed, match="Total size of request exceeds the limit of 25MB"):
        protocol.bulk_json(asked, {"a": large}, lambda entry: entry.value, LIMITS)
    asked = protocol.bulk(b'{"keys":["a"],"type":"json"}', LIMITS)
    small = Entry(Head(b"a", 0, b"", "", 1), b"x")
    with pytest.raises(Failed, match="corresponds to a non-json value"):
        protocol.bulk_json(asked, {"a": small}, lambda entry: entry.value, LIMITS)
