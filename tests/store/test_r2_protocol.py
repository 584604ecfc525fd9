"""workerd's R2 protocol: what is read, what is kept, what is told."""

import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from kythera.model.errors import Refusal
from kythera.store.r2_bodies import Checked
from kythera.store.r2_errors import no_such_key
from kythera.store.r2_objects import KEPT_HEADER, as_header, found_in, kept_of, view
from kythera.store.r2_protocol import Question, error_header, read_question

PUT = """{"version":1,"method":"put","object":"ü/k","customFields":[{"k":"X","v":"ö"}],
"httpFields":{"contentType":"text/x","cacheExpiry":"1000000000000"},
"onlyIf":{"etagMatches":[{"value":"e","type":"strong"}],"uploadedBefore":"5"},
"sha1":"%s","storageClass":"InfrequentAccess"}""" % hashlib.sha1(b"hello").hexdigest()  # noqa: S324, UP031


def test_a_put_is_read_as_workerd_writes_it() -> None:
    """Goal: 64-bit numbers are texts, checksums hexadecimal."""
    question = read_question(PUT.encode())
    assert question.object == "ü/k"
    assert question.http_fields.cache_expiry == 10**12
    assert question.only_if is not None
    assert question.only_if.uploaded_before == 5
    assert question.checksum() == ("sha1", hashlib.sha1(b"hello").digest())  # noqa: S324


def test_what_is_kept_comes_back_with_the_object() -> None:
    """Goal: one header of the engine's holds all that R2 knows beside the bytes."""
    kept = kept_of(read_question(PUT), "v1", 1_234)
    headers = {KEPT_HEADER: as_header(kept), "ETag": f'"{"0" * 32}"', "Content-Length": "5"}
    assert headers[KEPT_HEADER].isascii()
    document = view(found_in("ü/k", headers))
    assert document["version"] == "v1"
    assert document["uploaded"] == "1234"
    assert document["customFields"] == [{"k": "X", "v": "ö"}]
    assert document["httpFields"] == {"contentType": "text/x", "cacheExpiry": "1000000000000"}
    assert set(document["checksums"]) == {"0", "1"}
    assert document["storageClass"] == "InfrequentAccess"


def test_a_list_shows_what_it_was_asked_to_include() -> None:
    """Goal: neither HTTP nor custom metadata unless asked for."""
    found = found_in("k", {KEPT_HEADER: as_header(kept_of(read_question(PUT), "v", 1))})
    assert not {"httpFields", "customFields"} & view(found, []).keys()
    assert "customFields" in view(found, [1])


def test_an_object_of_somebody_else_shows_what_the_engine_knows() -> None:
    """Goal: no metadata of ours is no error."""
    headers = {
        "ETag": '"x-2"',
        "Content-Length": "7",
        "Last-Modified": "Thu, 01 Jan 1970 00:00:09 GMT",
    }
    document = view(found_in("k", headers))
    assert (document["size"], document["uploaded"], document["checksums"]) == ("7", "9000", {})


@pytest.mark.parametrize("text", [b"", b"{}", b"nonsense", b'{"method":1}', b"\xff"])
def test_a_question_that_cannot_be_read_is_refused(text: bytes) -> None:
    """Goal: 10029, never an unexpected failure."""
    with pytest.raises(Refusal) as refused:
        read_question(text)
    assert refused.value.code == 10029


def test_a_checksum_that_cannot_be_read_is_refused() -> None:
    """Goal: the same for what is inside."""
    with pytest.raises(Refusal):
        Question(method="put", sha1="xyz").checksum()


def test_a_refusal_fits_into_a_header() -> None:
    """Goal: code and text, in ASCII and on one line."""
    text = error_header(Refusal(10037, "ü\nö"))
    assert text.isascii()
    assert "\n" not in text
    assert msgspec.json.decode(text) == {"version": 1, "v4code": 10037, "message": "ü\nö"}
    assert msgspec.json.decode(error_header(no_such_key()))["v4code"] == 10007


async def pieces() -> AsyncIterator[bytes]:
    """Yield a body in three pieces."""
    for piece in (b"he", b"l", b"lo"):
        yield piece


async def passed_on(body: Checked) -> list[bytes]:
    """Return what of a body was passed on."""
    found = []
    try:
        async for piece in body:
            found.append(piece)  # noqa: PERF401 (what came before the refusal counts)
    except Refusal:
        assert body.refused is not None
    return found


@pytest.mark.anyio
async def test_a_body_that_is_not_its_checksum_never_ends() -> None:
    """Goal: without its last piece the engine makes no object of it."""
    wrong = Checked(pieces(), ("sha256", b"\0" * 32))
    assert b"".join(await passed_on(wrong)) == b"hel"
    assert wrong.refused is not None
    assert wrong.refused.code == 10037


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384", "sha512"])
async def test_a_body_that_is_its_checksum_passes(algorithm: str) -> None:
    """Goal: each of the five."""
    digest = hashlib.new(algorithm, b"hello").digest()
    assert b"".join(await passed_on(Checked(pieces(), (algorithm, digest)))) == b"hello"
