"""Anybody may send anything: the API answers with an envelope, and stores nothing it refused.

Method: Hypothesis draws requests (addresses, methods, headers, bodies: random, or almost right and
then spoiled) and throws them at the application with a worker already deployed. Whatever comes
back must be Cloudflare's envelope with a status below 500, the journal must hold no traceback, and
the log and the blobs must be as before unless the answer was a success.
"""

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kythera.model.limits import Limits
from tests.control.world import ACCOUNT, HELLO, ROOT, TOKEN, WORKERS, World, errors_in, world_at

SMALL = Limits(
    append_ms=200,
    read_your_writes_ms=200,
    bundle_bytes_max=20_000,
    metadata_bytes_max=4_000,
    json_body_bytes_max=4_000,
    modules_max=5,
    bindings_max=5,
    binding_text_bytes_max=500,
    secret_bytes_max=200,
    asset_bytes_max=1_000,
    assets_files_max=5,
    assets_upload_bytes_max=4_000,
    record_bytes_max=8_000,
    versions_kept_max=4,
    deployments_kept_max=4,
    tails_per_worker_max=3,
)
"""Tiny, so that every limit is met on the first page."""

many = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

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


metadata = st.one_of(
    spoiled(GOOD_METADATA),
    spoiled({**GOOD_METADATA, "body_part": None}),
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


@dataclass(frozen=True)
class Call:
    """One request to throw."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None


async def throw(world: World, call: Call) -> httpx.Response:
    """Send a request and hold the API to its promises."""
    before = world.stored()
    request = httpx.Request(
        call.method,
        httpx.URL("http://api.test").copy_with(raw_path=call.path.encode()),
        content=call.body,
        headers={"authorization": f"Bearer {TOKEN}", **(call.headers or {})},
    )
    response = await world.client.send(request)
    assert response.status_code < 500, (call, response.text)
    assert list(errors_in(world)) == []
    if call.method != "HEAD" and not is_raw(call, response):
        document = response.json()
        if "success" in document:
            assert document["success"] == (response.status_code < 400), (call, document)
            assert document["success"] or all(e["message"] for e in document["errors"])
    if response.status_code >= 400:
        assert world.stored() == before, (call, response.text)
    return response


def is_raw(call: Call, response: httpx.Response) -> bool:
    """Tell whether an answer is a worker's content, which has no envelope."""
    return response.status_code == 200 and call.path.split("?")[0] in (
        SCRIPT,
        f"{SCRIPT}/content/v2",
    )


def against_a_world(*calls: Call) -> None:
    """Throw requests at a fresh world with one worker, and then ask whether it still works."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with world_at(Path(folder), SMALL) as world:
                await world.deploy(bindings=[{"name": "S", "type": "secret_text", "text": "hush"}])
                version = world.catalog.versions(ACCOUNT, "hello")[0].id
                for call in calls:
                    body = call.body.replace(VERSION.encode(), version.encode())
                    response = await throw(world, replace(call, body=body))
                    assert "hush" not in response.text
                await world.deploy("another", code=HELLO)

    anyio.run(run)


segments = st.one_of(
    words,
    st.sampled_from(
        ["..", "%2e%2e", "%00", "%ff", "a%2Fb", "HELLO", "a" * 80, "é", "%zz", "*", ".", "a b", "%"]
    ),
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Return an address: one of ours, perhaps with a strange name in it, perhaps nothing like it."""
    path = draw(st.sampled_from(ADDRESSES))
    strange = draw(st.one_of(st.none(), segments))
    if strange is not None:
        which = draw(st.sampled_from(["hello", "x", ACCOUNT, "scripts", "client"]))
        quoted = draw(st.booleans())
        text = httpx.QueryParams({"q": strange})["q"] if quoted else strange
        path = path.replace(
            which,
            "".join(
                c
                if " " < c < "\x7f" and c not in "?#"
                else "".join(f"%{b:02X}" for b in c.encode("utf-8", "replace"))
                for c in text
            ),
        )
    query = draw(
        st.sampled_from(
            [
                "",
                "?page=2",
                "?page=-1&per_page=0",
                "?page=" + "9" * 40,
                "?base64=true",
                "?force=true",
                "?name=%ff&name=a",
                "?version=x",
                "?per_page=abc",
                "?%00=%00",
            ]
        )
    )
    return path + query


@many
@given(
    method=st.sampled_from(METHODS),
    path=paths(),
    body=spoiled_json,
    content_type=st.one_of(
        st.none(), st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=32), max_size=40)
    ),
)
@example(method="GET", path="/", body=b"", content_type=None)
@example(method="GET", path="/client/v4/accounts//workers/scripts", body=b"", content_type=None)
def test_any_call_gets_an_envelope(
    method: str, path: str, body: bytes, content_type: str | None
) -> None:
    """Any method at any address with any body."""
    headers = {} if content_type is None else {"content-type": content_type}
    against_a_world(Call(method, path, body, headers))


@st.composite
def almost_good_calls(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Return a call that would do something, with perhaps a thing or two wrong in its body."""
    method, path, document = draw(st.sampled_from(GOOD_CALLS))
    return method, path, draw(spoiled(document))


@settings(many, max_examples=600)
@given(calls=st.lists(almost_good_calls(), min_size=1, max_size=3))
def test_json_of_any_shape_gets_an_envelope(calls: list[tuple[str, str, Any]]) -> None:
    """Bodies that are right, or almost, one after the other on the same worker."""
    against_a_world(*(Call(method, path, encoded(body)) for method, path, body in calls))


FILE = b"hello"


@many
@given(
    names=st.lists(
        st.sampled_from(["good", "other", "0" * 32, "", "../x"]), min_size=1, max_size=3
    ),
    content=st.one_of(
        st.just(base64.b64encode(FILE)), st.binary(max_size=30), st.just(b"A" * 2_000)
    ),
    raw=st.booleans(),
    purpose=st.sampled_from(["session", "session", "session", "completion"]),
    late_s=st.sampled_from([0, 0, 0, 7_200]),
)
def test_malformed_asset_uploads_are_refused_whole(
    names: list[str], content: bytes, raw: bool, purpose: str, late_s: int
) -> None:
    """A real session, into which anything is uploaded."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with world_at(Path(folder), SMALL) as world:
                text = base64.b64encode(FILE)
                good = blake3(text + b"html").hexdigest()[:32]
                manifest = {
                    "/i.html": {"hash": good, "size": 5},
                    "/x": {"hash": "f" * 32, "size": 1},
                }
                begun = await world.ok(
                    "POST", "scripts/hello/assets-upload-session", {"manifest": manifest}
                )
                token = begun["jwt"] if purpose == "session" else "x." + begun["jwt"]
                world.clock.time += late_s
                known = {"good": good, "other": "f" * 32}
                await throw(
                    world, asset_call([known.get(n, n) for n in names], content, token, raw)
                )

    anyio.run(run)


def asset_call(names: list[str], content: bytes, token: str, raw: bool) -> Call:
    """Return an upload of assets, in either of the two ways."""
    authorization = {"authorization": f"Bearer {token}"}
    if raw:
        path = f"{WORKERS}/assets/upload/{names[0].replace('/', '%2F')}"
        return Call("POST", path, content, {**authorization, "content-type": "text/html"})
    parts = [
        (f'Content-Disposition: form-data; name="{name}"; filename="{name}"'.encode(), content)
        for name in names
    ]
    kind = {"content-type": "multipart/form-data; boundary=b0undary"}
    path = f"{WORKERS}/assets/upload?base64=true"
    return Call("POST", path, multipart(parts), {**authorization, **kind})


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


@settings(many, max_examples=500)
@given(
    target=st.sampled_from(
        [
            ("PUT", SCRIPT),
            ("POST", f"{SCRIPT}/versions"),
            ("PATCH", f"{SCRIPT}/settings"),
            ("PUT", f"{WORKERS}/scripts/new"),
            ("POST", f"{WORKERS}/assets/upload?base64=true"),
        ]
    ),
    body=forms(),
    content_type=content_types,
)
def test_malformed_uploads_are_refused_whole(
    target: tuple[str, str], body: bytes, content_type: str
) -> None:
    """Forms that are cut, doubled, empty, too large, or full of strange names."""
    against_a_world(Call(*target, body, {"content-type": content_type}))


@many
@given(described=metadata)
def test_metadata_of_any_shape_is_understood_or_refused(described: dict[str, Any]) -> None:
    """A good form whose metadata has the right keys and any values."""
    head = heads_of_module()
    body = multipart([(METADATA_HEAD, encoded(described)), (head, HELLO.encode())])
    against_a_world(
        Call("PUT", SCRIPT, body, {"content-type": "multipart/form-data; boundary=b0undary"})
    )


def heads_of_module() -> bytes:
    """Return the headers of a main module."""
    return (
        b'Content-Disposition: form-data; name="index.js"; filename="index.js"\r\n'
        b"Content-Type: application/javascript+module"
    )


tokens = st.one_of(
    st.none(),
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255), max_size=80),
    st.sampled_from(["a.b.c", "..", "Bearer", "eyJ.eyJ.x", TOKEN[:-1], TOKEN + "x"]),
)


@many
@given(token=tokens, path=st.sampled_from(ADDRESSES[1:]), method=st.sampled_from(METHODS[:5]))
def test_wrong_tokens_open_nothing(token: str | None, path: str, method: str) -> None:
    """Whatever is sent instead of the token, the answer is 10000 and nothing else."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with world_at(Path(folder), SMALL) as world:
                before = world.stored()
                value = b"Bearer " + (token or "").encode("latin-1")
                headers = {b"authorization": value} if token is not None else {b"x": b"y"}
                request = httpx.Request(method, f"http://api.test{path}", headers=headers)
                response = await world.client.send(request)
                assert response.status_code in (401, 403, 405), response.text
                assert world.stored() == before
                if response.status_code != 405:
                    assert response.json()["errors"][0]["code"] == 10000

    anyio.run(run)
