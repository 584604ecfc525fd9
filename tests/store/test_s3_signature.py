"""Signatures of S3's clients: botocore signs as a client does, and the store's door checks."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.compat import get_current_datetime
from botocore.credentials import Credentials

from kythera.model.errors import Refusal
from kythera.store.s3_endpoint import Keys
from kythera.store.s3_signature import UNSIGNED, Asked, check

KEYS = Keys("key-id", "secret")
URL = "http://r2.test:9000/bucket/a%20b//%C3%BC?list-type=2&prefix=x%2Fy"


def now() -> float:
    """Return the time by which botocore signs."""
    return float(get_current_datetime().timestamp())


def sent(method: str = "GET", *, presigned: bool = False, keys: Keys = KEYS) -> Asked:
    """Return a request as a client sends it."""
    who = Credentials(keys.access_key_id, keys.secret_access_key)
    signer: Any = (
        S3SigV4QueryAuth(who, "s3", "auto", expires=60)
        if presigned
        else S3SigV4Auth(who, "s3", "auto")
    )
    request = AWSRequest(
        method, URL, headers={"x-amz-meta-a": "b"}, data=b"" if presigned else b"body"
    )
    signer.add_auth(request)
    parts = urlsplit(request.url)
    headers = {name.lower(): value for name, value in request.headers.items()}
    target = f"{parts.path}?{parts.query}"
    return Asked(method, target, {**headers, "host": parts.netloc})


def refusal(asked: Asked, later_s: float = 0.0) -> int:
    """Return the code with which a request is refused."""
    with pytest.raises(Refusal) as refused:
        check(asked, KEYS, now() + later_s)
    return refused.value.code


def test_what_a_client_signs_is_let_in() -> None:
    """Goal: signed in headers, with the body's digest; signed in the address, without."""
    assert len(check(sent("PUT"), KEYS, now())) == 64
    assert check(sent(presigned=True), KEYS, now() + 50) == UNSIGNED


@pytest.mark.parametrize("presigned", [False, True])
def test_no_part_of_a_signed_request_can_be_another(*, presigned: bool) -> None:
    """Goal: a planted change of method, path, query, header or key is found."""
    good = sent(presigned=presigned)
    changed = [
        Asked("DELETE", good.target, good.headers),
        Asked("GET", good.target.replace("/bucket/", "/tekcub/"), good.headers),
        Asked("GET", good.target.replace("list-type=2", "list-type=1"), good.headers),
        Asked("GET", good.target, {**good.headers, "x-amz-meta-a": "c"}),
        Asked("GET", good.target, {**good.headers, "host": "elsewhere"}),
        sent(presigned=presigned, keys=Keys("key-id", "another")),
        sent(presigned=presigned, keys=Keys("another", "secret")),
    ]
    assert [refusal(asked) for asked in changed] == [10035] * len(changed)


def test_a_signature_holds_for_its_time() -> None:
    """Goal: a quarter of an hour for a request, as long as it says for a presigned address."""
    assert refusal(sent(), 1_000) == 10018
    assert refusal(sent(), -1_000) == 10018
    assert refusal(sent(presigned=True), 70) == 10018


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/", {}),
        ("/", {"authorization": "Basic eDp5"}),
        ("/?X-Amz-Signature=", {}),
        ("/?X-Amz-Signature=\u00fc&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=9", {}),
        ("/X-Amz-Signature=/x", {"host": "h"}),
    ],
)
def test_what_is_not_signed_is_refused(target: str, headers: dict[str, str]) -> None:
    """Goal: a refusal, never an unexpected failure."""
    assert refusal(Asked("GET", target, headers)) in (10002, 10035)
