"""Signatures of S3's clients (AWS Signature Version 4), checked: in headers, or in a presigned URL.

botocore computes; what it is given is the request as it came, and who is known. Promises: a signature is
compared in constant time, holds for its moment (or, presigned, for as long as it says) alone, and
tells how the body is signed. Pure.
"""

import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from msgspec import Struct

from kythera.model.errors import Refusal
from kythera.store.s3_endpoint import Keys

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
SKEW_S_MAX = 900
PRESIGNED_S_MAX = 7 * 86_400
HEADER = re.compile(
    rf"{ALGORITHM} Credential=(?P<credential>[^, ]+),\s*SignedHeaders=(?P<headers>[^, ]+),"
    r"\s*Signature=(?P<signature>[0-9a-f]{64})"
)


class Asked(Struct, frozen=True):
    """A request as it came."""

    method: str
    target: str
    """Path and query, undecoded."""
    headers: Mapping[str, str]
    """By lower-case name."""


class _Proof(Struct, frozen=True):
    credential: str
    headers: str
    signature: str
    at: str
    life_s: int
    target: str
    """Without the signature."""
    payload: str


class _Checker(SigV4Auth):  # type: ignore[misc]
    """Signs exactly the headers that the client has signed."""

    def __init__(self, keys: Keys, region: str, names: list[str]) -> None:
        credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        super().__init__(credentials, "s3", region)
        self._names = names

    def headers_to_sign(self, request: AWSRequest) -> Mapping[str, str]:
        return {name: request.headers[name] for name in self._names}

    def canonical_headers(self, headers_to_sign: Mapping[str, str]) -> str:
        return "\n".join(f"{n}:{self._header_value(headers_to_sign[n])}" for n in self._names)

    def signed_headers(self, headers_to_sign: Mapping[str, str]) -> str:
        return ";".join(self._names)

    def _normalize_url_path(self, path: str) -> str:
        return path


def check(asked: Asked, keys: Keys, now: float) -> str:
    """Return how the body is signed (`X-Amz-Content-SHA256`). Raises Refusal."""
    proof = _presigned(asked) if "X-Amz-Signature=" in asked.target else _signed(asked)
    key_id, _, scope = proof.credential.partition("/")
    date, region, service, ending = [*scope.split("/"), "", "", "", ""][:4]
    names = proof.headers.split(";")
    known = hmac.compare_digest(key_id.encode(), keys.access_key_id.encode())
    if not known or (service, ending) != ("s3", "aws4_request") or proof.at[:8] != date:
        raise _wrong()
    if "host" not in names or any(name not in asked.headers for name in names):
        raise _wrong()
    _check_moment(proof, now)
    wanted = _signature(asked, proof, keys, region, names)
    if not hmac.compare_digest(wanted.encode(), proof.signature.encode()):
        raise _wrong()
    return proof.payload


def _signature(asked: Asked, proof: _Proof, keys: Keys, region: str, names: list[str]) -> str:
    request = AWSRequest(asked.method, f"http://s3{proof.target}", headers=dict(asked.headers))
    del request.headers["X-Amz-Content-SHA256"]
    request.headers["X-Amz-Content-SHA256"] = proof.payload
    request.context["timestamp"] = proof.at
    checker = _Checker(keys, region, names)
    text = checker.string_to_sign(request, checker.canonical_request(request))
    found: str = checker.signature(text, request)
    return found


def _signed(asked: Asked) -> _Proof:
    found = HEADER.fullmatch(asked.headers.get("authorization", ""))
    if found is None:
        raise Refusal(
            10002, "Unauthorized: sign the request (AWS Signature Version 4).", status=401
        )
    return _Proof(
        **found.groupdict(),
        at=asked.headers.get("x-amz-date", ""),
        life_s=0,
        target=asked.target,
        payload=asked.headers.get("x-amz-content-sha256", UNSIGNED),
    )


def _presigned(asked: Asked) -> _Proof:
    path, _, query = asked.target.partition("?")
    kept = "&".join(p for p in query.split("&") if not p.startswith("X-Amz-Signature="))
    given = {name: values[0] for name, values in parse_qs(urlsplit(asked.target).query).items()}
    life = given.get("X-Amz-Expires", "")
    if given.get("X-Amz-Algorithm") != ALGORITHM or not life.isdecimal() or len(life) > 9:
        raise _wrong()
    return _Proof(
        credential=given.get("X-Amz-Credential", ""),
        headers=given.get("X-Amz-SignedHeaders", ""),
        signature=given.get("X-Amz-Signature", ""),
        at=given.get("X-Amz-Date", ""),
        life_s=max(1, min(int(life), PRESIGNED_S_MAX)),
        target=f"{path}?{kept}",
        payload=UNSIGNED,
    )


def _check_moment(proof: _Proof, now: float) -> None:
    try:
        at = datetime.strptime(proof.at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _wrong() from None
    if now > at + (proof.life_s or SKEW_S_MAX) or now < at - SKEW_S_MAX:
        raise Refusal(
            10018, "The request's signature has expired, or is not valid yet.", status=403
        )


def _wrong() -> Refusal:
    text = "The request signature we calculated does not match the signature you provided."
    return Refusal(10035, text, status=403)
