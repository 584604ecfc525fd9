"""What to throw at the API: addresses, documents and forms that are right, and then spoiled."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.control.world import ACCOUNT, HELLO, ROOT, WORKERS

SCRIPT = f"{WORKERS}/scripts/hello"
ADDRESSES = (
    "/healthz",
    f"{ROOT}/user",
    f"{ROOT}/user/tokens/verify",
    f"{ROOT}/accounts",
    f"{ROOT}/accounts/{ACCOUNT}",
    f"{ROOT}/accounts/{ACCOUNT}/storage/kv/namespaces",
    f"{ROOT}/accounts/{ACCOUNT}/queues/x",
    f"{ROOT}/memberships",
    f"{ROOT}/zones",
    f"{ROOT}/zones/x/workers/routes",
    f"{WORKERS}/scripts",
    f"{WORKERS}/subdomain",
    f"{WORKERS}/services/hello",
    f"{WORKERS}/workers/hello",
    f"{WORKERS}/workers/hello/versions/latest",
    f"{WORKERS}/domains",
    f"{WORKERS}/domains/records",
    f"{WORKERS}/domains/records/x",
    f"{WORKERS}/assets/upload",
    f"{WORKERS}/assets/upload/00000000000000000000000000000000",
    SCRIPT,
    *(
        f"{SCRIPT}/{tail}"
        for tail in (
            "versions",
            "versions/x",
            "deployments",
            "deployments/x",
            "settings",
            "script-settings",
            "subdomain",
            "secrets",
            "secrets/S",
            "secrets-bulk",
            "content/v2",
            "references",
            "routes",
            "domains/changeset",
            "domains/records",
            "schedules",
            "tails",
            "tails/x",
            "assets-upload-session",
        )
    ),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW")
KEYS = (
    "main_module body_part bindings compatibility_date compatibility_flags keep_bindings keep_assets"
    " annotations assets jwt config logpush placement limits observability tags migrations exports"
    " tail_consumers containers usage_model name type text json part old_name strategy versions"
    " version_id percentage enabled previews_enabled secrets env filters sampling_rate outcome method"
    " header key query client_ip scriptVersion pattern zone_name origins hostname manifest hash size"
    " html_handling not_found_handling run_worker_first _headers _redirects workers/message new_tag"
    " steps override_existing_origin"
).split()
TYPES = (
    "plain_text json secret_text version_metadata assets inherit wasm_module text_blob data_blob"
    " kv_namespace d1 nonsense"
).split()

words = st.one_of(
    st.sampled_from([*KEYS, *TYPES, "index.js", "S", "hello", "2026-01-01", "x.example.com/*"]),
    st.text(max_size=30),
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from([0, 100, 10**30, -(10**400), 2**63, 2**64]),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=12,
)
GOOD_METADATA: dict[str, Any] = {
    "main_module": "index.js",
    "compatibility_date": "2026-01-01",
    "compatibility_flags": ["nodejs_compat"],
    "bindings": [
        {"name": "A", "type": "plain_text", "text": "a"},
        {"name": "J", "type": "json", "json": {"a": [1, None]}},
        {"name": "S", "type": "inherit"},
        {"name": "T", "type": "secret_text", "text": "t"},
        {"name": "V", "type": "version_metadata"},
    ],
    "keep_bindings": ["secret_text", "plain_text"],
    "annotations": {"workers/message": "m", "workers/tag": "t"},
    "migrations": {"new_tag": "v1", "steps": []},
    "observability": {"enabled": True, "head_sampling_rate": 0.5},
    "placement": {"mode": "smart"},
    "limits": {"cpu_ms": 100},
    "logpush": False,
    "tags": ["a"],
    "tail_consumers": [],
}
GOOD_ASSETS: dict[str, Any] = {
    "assets": {
        "jwt": "a.b.c",
        "config": {
            "html_handling": "none",
            "not_found_handling": "404-page",
            "run_worker_first": ["/api/*"],
            "_headers": "/*\n  A: b",
            "_redirects": "/a /b 301",
        },
    }
}
VERSION = "the version that is deployed"
"""Stands for an id that only exists when the world does."""
GOOD_CALLS: tuple[tuple[str, str, Any], ...] = (
    ("PUT", f"{SCRIPT}/secrets", {"name": "S", "text": "s", "type": "secret_text"}),
    ("PATCH", f"{SCRIPT}/secrets-bulk", {"secrets": {"N": {"text": "n"}, "S": None}}),
    (
        "PATCH",
        f"{SCRIPT}/settings",
        {
            "bindings": [{"name": "S", "type": "secret_text"}],
            "compatibility_flags": [],
            "limits": {},
        },
    ),
    (
        "PATCH",
        f"{SCRIPT}/script-settings",
        {"observability": {"enabled": False}, "tags": [], "logpush": True, "tail_consumers": []},
    ),
    ("POST", f"{SCRIPT}/subdomain", {"enabled": True, "previews_enabled": False}),
    (
        "PATCH",
        f"{WORKERS}/workers/hello/versions/latest",
        {"env": {"N": {"type": "secret_text", "text": "n"}, "S": None}, "annotations": {}},
    ),
    (
        "POST",
        f"{SCRIPT}/deployments",
        {
            "strategy": "percentage",
            "versions": [{"version_id": VERSION, "percentage": 100}],
            "annotations": {"workers/message": "m"},
        },
    ),
    (
        "PUT",
        f"{SCRIPT}/routes",
        [{"pattern": "a.example.com/*", "zone_name": "example.com"}, {"pattern": "*.b.c/x"}],
    ),
    ("POST", f"{SCRIPT}/domains/changeset", [{"hostname": "a.example.com"}]),
    (
        "PUT",
        f"{SCRIPT}/domains/records",
        {"override_existing_origin": True, "origins": [{"hostname": "a.b", "enabled": True}]},
    ),
    ("PUT", f"{SCRIPT}/schedules", []),
    (
        "POST",
        f"{SCRIPT}/tails",
        {
            "filters": [
                {"sampling_rate": 0.5},
                {"outcome": ["ok"]},
                {"header": {"key": "a", "query": "b"}},
                {"client_ip": ["self"]},
                {"scriptVersion": "x"},
            ]
        },
    ),
    (
        "POST",
        f"{SCRIPT}/assets-upload-session",
        {
            "manifest": {
                "/a/b.html": {"hash": "0" * 32, "size": 5},
                "/c": {"hash": "1" * 32, "size": 0},
            }
        },
    ),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all that is inside a document, itself included."""
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    if isinstance(document, list):
        for number, value in enumerate(document):
            found += places(value, (*path, number))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any, *, key: str | None = None) -> Any:
    """Return a document with one place put otherwise: another value, or under another key."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(document, list):
        return [
            changed(inner, rest, value, key=key) if number == first else inner
            for number, inner in enumerate(document)
        ]
    inner = changed(document[first], rest, value, key=key)
    if key is not None and not rest:
        return {(key if name == first else name): old for name, old in document.items()}
    return {**document, first: inner}


@st.composite
def spoiled(draw: st.DrawFn, document: Any) -> Any:
    """Return a good document of which nothing, or one thing or two, has been spoiled."""
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        path = draw(st.sampled_from(places(document)))
        key = draw(st.one_of(st.none(), st.none(), words))
        document = changed(document, path, draw(documents), key=key)
    return document


bindings = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "S", "T"]), "type": st.sampled_from(TYPES)},
        optional={
            "text": words,
            "json": documents,
            "part": st.one_of(st.just("index.js"), scalars),
            "old_name": st.one_of(st.just("S"), scalars),
        },
    ),
    min_size=1,
    max_size=3,
)
metadata = st.one_of(
    spoiled(GOOD_METADATA),
    st.builds(lambda some: {**GOOD_METADATA, "bindings": some}, bindings),
    st.builds(lambda some: {"body_part": "index.js", "bindings": some}, bindings),
    spoiled({**GOOD_METADATA, **GOOD_ASSETS}),
)


def encoded(document: Any) -> bytes:
    """Return a document as Python would send it: lone surrogates and huge numbers included."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


spoiled_json = st.one_of(
    documents.map(encoded),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"{",
            b"[" * 20_000,
            b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
            b'"\\ud800"',
            b'{"name":"S","text":"\\ud800"}',
            b'{"name":"S","text":"\\u0000"}',
            b"1e999",
            b"9" * 6_000,
            b"NaN",
            b"\xff\xfe",
            b"null",
            b"[" * 60 + b"]" * 60,
            b'{"secrets":null}',
            b" " * 5_000,
        ]
    ),
)


def heads_of_module() -> bytes:
    """Return the headers of a main module."""
    return (
        b'Content-Disposition: form-data; name="index.js"; filename="index.js"\r\n'
        b"Content-Type: application/javascript+module"
    )


def multipart(parts: list[tuple[bytes, bytes]], boundary: bytes = b"b0undary") -> bytes:
    """Return a form of parts (headers, content), written by hand so that it may be wrong."""
    pieces = [
        b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + body + b"\r\n" for head, body in parts
    ]
    return b"".join(pieces) + b"--" + boundary + b"--\r\n"


heads = st.one_of(
    st.sampled_from(
        [
            (
                b'Content-Disposition: form-data; name="index.js"; filename="index.js"\r\n'
                b"Content-Type: application/javascript+module"
            ),
            (
                b'Content-Disposition: form-data; name="index.js"; filename="index.js"\r\n'
                b"Content-Type: application/javascript"
            ),
            (
                b'Content-Disposition: form-data; name="x"; filename="../../etc/passwd"\r\n'
                b"Content-Type: text/plain"
            ),
            b'Content-Disposition: form-data; name="x"; filename="a\x00b"\r\nContent-Type: text/plain',
            b'Content-Disposition: form-data; name="x"; filename="\xff\xfe"\r\nContent-Type: text/plain',
            (
                b'Content-Disposition: form-data; name="w"; filename="w.wasm"\r\n'
                b"Content-Type: application/wasm"
            ),
            b'Content-Disposition: form-data; name="p"; filename="p.py"\r\nContent-Type: text/x-python',
            b'Content-Disposition: form-data; name="u"; filename="u"\r\nContent-Type: what/ever',
            b'Content-Disposition: form-data; name="settings"',
            b"Content-Disposition: form-data",
            b"Content-Disposition: attachment; name=x",
            b"",
            b"X: " + b"y" * 9_000,
            b'Content-Disposition: form-data; name="metadata"; filename="blob"',
        ]
    ),
    st.binary(max_size=60),
)
METADATA_HEAD = b'Content-Disposition: form-data; name="metadata"'


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """Return an upload form: almost right, then perhaps cut, doubled or spoiled."""
    described = draw(st.one_of(metadata.map(encoded), metadata.map(encoded), spoiled_json))
    good = (heads_of_module(), HELLO.encode())
    files = draw(
        st.lists(
            st.tuples(heads, st.one_of(st.just(HELLO.encode()), st.binary(max_size=50))), max_size=4
        )
    )
    parts = [
        *([good] * draw(st.sampled_from([1, 1, 1, 0, 2]))),
        *([(METADATA_HEAD, described)] * draw(st.sampled_from([1, 1, 1, 0, 2]))),
        *files,
    ]
    body = multipart(draw(st.permutations(parts)))
    match draw(st.sampled_from(["whole", "whole", "whole", "cut", "spoiled", "long"])):
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "spoiled":
            place = draw(st.integers(0, len(body)))
            return body[:place] + draw(st.binary(min_size=1, max_size=3)) + body[place + 1 :]
        case "long":
            return body.replace(HELLO.encode(), HELLO.encode() + b" " * 30_000)
    return body


content_types = st.sampled_from(
    [
        *(["multipart/form-data; boundary=b0undary"] * 12),
        'multipart/form-data; boundary="b0undary"',
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 300,
        "multipart/mixed; boundary=b0undary",
        "application/json",
        "",
    ]
)
