"""Anybody may send anything: the API answers with an envelope, and stores nothing it refused.

Method: Hypothesis draws requests (addresses, methods, headers, bodies: random, or almost right and
then spoiled) and throws them at the application with a worker already deployed. Whatever comes
back must be Cloudflare's envelope with a status below 500, the journal must hold no traceback, and
the log and the blobs must be as before unless the answer was a success.
"""

import base64
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
from tests.control.malformed import (
    ADDRESSES,
    GOOD_CALLS,
    METADATA_HEAD,
    METHODS,
    SCRIPT,
    VERSION,
    content_types,
    encoded,
    forms,
    heads_of_module,
    metadata,
    multipart,
    spoiled,
    spoiled_json,
    words,
)
from tests.control.world import ACCOUNT, HELLO, TOKEN, WORKERS, World, errors_in, world_at

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
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
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


def shares(percentage: Any) -> dict[str, Any]:
    """Return a deployment of the one version there is."""
    return {"versions": [{"version_id": VERSION, "percentage": percentage}]}


@st.composite
def almost_good_calls(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Return a call that would do something, with perhaps a thing or two wrong in its body."""
    method, path, document = draw(st.sampled_from(GOOD_CALLS))
    return method, path, draw(spoiled(document))


@settings(many, max_examples=300)
@given(calls=st.lists(almost_good_calls(), min_size=1, max_size=3))
@example(calls=[("POST", f"{SCRIPT}/deployments", shares(10**400))])
@example(calls=[("POST", f"{SCRIPT}/deployments", shares(-(10**9)))])
@example(calls=[("POST", f"{SCRIPT}/subdomain", {"enabled": 10**400})])
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


@settings(many, max_examples=300)
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
