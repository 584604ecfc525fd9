"""Static assets over HTTP, both ways of uploading, and the index that remembers them."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from kythera.control.asset_index import AssetIndex, Known
from kythera.deploy import assets
from kythera.model.records import Asset
from tests.control.world import ACCOUNT, World, form, parts, world_at

pytestmark = pytest.mark.anyio
SESSION = "scripts/site/assets-upload-session"
FILES = {
    "/index.html": b"<h1>hi</h1>",
    "/css/a b.css": b"a{}",
    "/copy.html": b"<h1>hi</h1>",
    "/x": b"",
}
TYPES = {
    "/index.html": "text/html; charset=utf-8",
    "/css/a b.css": "text/css",
    "/x": "application/null",
}


def hash_of(path: str, data: bytes) -> str:
    """Return wrangler's hash of a file."""
    extension = path.rpartition("/")[2].partition(".")[2]
    return blake3(base64.b64encode(data) + extension.encode()).hexdigest()[:32]


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    """Return what begins a session."""
    entries = {p: {"hash": hash_of(p, d), "size": len(d)} for p, d in files.items()}
    return {"manifest": entries}


async def upload(world: World, token: str, *paths: str, raw: bool = False) -> Any:
    """Upload some of FILES, as a form of base64 text or one by one."""
    authorization = {"authorization": f"Bearer {token}"}
    if not raw:
        files = [
            (
                hash_of(p, FILES[p]),
                (hash_of(p, FILES[p]), base64.b64encode(FILES[p]), TYPES[p]),
            )
            for p in paths
        ]
        path = "assets/upload?base64=true"
        return await world.call("POST", path, files=files, headers=authorization)
    for p in paths:
        response = await world.call(
            "POST",
            f"assets/upload/{hash_of(p, FILES[p])}",
            content=FILES[p],
            headers={**authorization, "content-type": TYPES[p]},
        )
    return response


async def finished(world: World, *, raw: bool = False) -> str:
    """Upload all of FILES; return the completion token."""
    begun = await world.ok("POST", SESSION, manifest_of(FILES))
    response = await upload(world, begun["jwt"], "/index.html", "/css/a b.css", "/x", raw=raw)
    assert response.status_code == 201, response.text
    token: str = response.json()["result"]["jwt"]
    return token


@pytest.mark.parametrize("raw", [False, True], ids=["forms of base64", "file by file"])
async def test_an_assets_only_worker_is_its_files(world: World, raw: bool) -> None:
    """Session, uploads, completion token, and a deploy that sends metadata alone."""
    token = await finished(world, raw=raw)
    config = {"html_handling": "none", "_headers": "/*\n  A: b", "run_worker_first": False}
    metadata = {"assets": {"jwt": token, "config": config}, "compatibility_date": "2026-01-01"}
    await world.ok("PUT", "scripts/site", files=parts(metadata, {}))
    version = world.catalog.versions(ACCOUNT, "site")[0]
    assert version.assets is not None
    assert version.assets.config == config
    assert world.workshop.tried == []
    stored = msgspec.json.decode(world.blobs.stored[version.assets.manifest], type=list[Asset])
    assert {a.path: world.blobs.stored[a.digest] for a in stored} == FILES
    assert {a.path: a.content_type for a in stored} == {
        "/index.html": "text/html; charset=utf-8",
        "/copy.html": "text/html; charset=utf-8",
        "/css/a b.css": "text/css",
        "/x": "",
    }


async def test_files_that_are_here_are_not_asked_for_again(world: World) -> None:
    """Nothing missing: the first answer is the completion token already."""
    await finished(world)
    again = await world.ok(
        "POST", SESSION, manifest_of({"/moved/index.html": FILES["/index.html"]})
    )
    assert again["buckets"] == []
    files = form(assets={"jwt": again["jwt"]}, bindings=[{"name": "ASSETS", "type": "assets"}])
    await world.ok("PUT", "scripts/site", files=files)
    one_more = {**FILES, "/new.txt": b"new"}
    begun = await world.ok("POST", SESSION, manifest_of(one_more))
    assert begun["buckets"] == [[hash_of("/new.txt", b"new")]]


async def test_parts_of_a_set_are_answered_until_it_is_whole(world: World) -> None:
    """202 with nothing, then 201 with the token, also after the API has started anew."""
    begun = await world.ok("POST", SESSION, manifest_of(FILES))
    assert sorted(name for bucket in begun["buckets"] for name in bucket) == sorted(
        {hash_of(p, d) for p, d in FILES.items()}
    )
    first = await upload(world, begun["jwt"], "/index.html")
    assert (first.status_code, first.json()["result"]) == (202, {})
    world.services.asset_sessions._known.clear()
    rest = await upload(world, begun["jwt"], "/css/a b.css", "/x")
    assert rest.status_code == 201
    repeated = await upload(world, begun["jwt"], "/x")
    assert repeated.status_code == 201


async def test_content_with_another_hash_is_refused_and_none_of_its_form_is_kept(
    world: World,
) -> None:
    """A file damaged on the way takes its whole request with it."""
    begun = await world.ok("POST", SESSION, manifest_of(FILES))
    good, bad = hash_of("/index.html", FILES["/index.html"]), hash_of("/css/a b.css", b"a{}")
    files = [
        (good, (good, base64.b64encode(FILES["/index.html"]), "text/html")),
        (bad, (bad, base64.b64encode(b"b{}"), "text/css")),
    ]
    refused = await world.refused(
        "POST",
        "assets/upload?base64=true",
        files=files,
        headers={"authorization": f"Bearer {begun['jwt']}"},
    )
    assert refused[1] == 10021
    assert "another hash" in refused[2]


async def test_tokens_are_good_for_one_purpose_one_worker_and_one_hour(world: World) -> None:
    """Neither the API's token nor a session's may stand for a completion."""
    begun = await world.ok("POST", SESSION, manifest_of(FILES))
    completion = await finished(world)
    for token in ("", "x", completion, begun["jwt"] + "x"):
        response = await upload(world, token, "/x")
        assert response.status_code in (401, 403)
    for token in (begun["jwt"], completion[:-2] + "zz"):
        refused = await world.refused("PUT", "scripts/site", files=form(assets={"jwt": token}))
        assert refused[:2] == (403, 10000)
    other = await world.refused("PUT", "scripts/other", files=form(assets={"jwt": completion}))
    assert other[1] == 10000
    world.clock.time += 3_601
    late = await world.refused("PUT", "scripts/site", files=form(assets={"jwt": completion}))
    assert "expired" in late[2]


async def test_assets_are_kept_when_an_upload_says_so(world: World) -> None:
    """`keep_assets`, as the older `versions secret put` sends it."""
    token = await finished(world)
    binding = [{"name": "ASSETS", "type": "assets"}]
    await world.deploy("site", assets={"jwt": token}, bindings=binding)
    await world.upload("site", keep_assets=True, bindings=binding)
    newest, first = world.catalog.versions(ACCOUNT, "site")
    assert newest.assets == first.assets
    refused = await world.refused("POST", "scripts/site/versions", files=form(bindings=binding))
    assert "no assets" in refused[2]


@pytest.mark.parametrize(
    "path",
    ["index.html", "/", "//a", "/a/../b", "/./a", "/a\x00b", "/" + "a" * 300, "/a/" * 400 + "b"],
)
async def test_paths_that_cannot_be_files_are_refused(world: World, path: str) -> None:
    """Whatever would leave the tree or cannot have a name in it."""
    manifest = {"manifest": {path: {"hash": "0" * 32, "size": 1}}}
    assert (await world.refused("POST", SESSION, manifest))[1] == 10021


async def test_a_file_cannot_be_a_folder_too(world: World) -> None:
    """/a and /a/b cannot both be laid out on a disk."""
    entry = {"hash": "0" * 32, "size": 1}
    refused = await world.refused("POST", SESSION, {"manifest": {"/a": entry, "/a/b/c": entry}})
    assert "also the folder" in refused[2]


async def test_the_index_outlives_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """What was cut short is forgotten; what came before and after it counts."""
    async with world_at(tmp_path) as world:
        path = tmp_path / "index"
        digest = world.blobs.put(b"a")
        index = AssetIndex(path, world.blobs)
        index.add([Known("a" * 32, digest, 1, "text/plain")])
        with path.open("ab") as file:
            file.write(b'["bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","')
        again = AssetIndex(path, world.blobs)
        assert again.has("a" * 32)
        assert not again.has("b" * 32)
        again.add([Known("c" * 32, digest, 1, "")])
        last = AssetIndex(path, world.blobs)
        assert last.has("c" * 32)
        world.blobs.stored.clear()
        assert not last.has("a" * 32)


def test_buckets_are_bounded_in_bytes_and_files() -> None:
    """Large files alone, small ones together, each hash once."""
    half = assets.BUCKET_BYTES_MAX // 2 + 1
    wanted = [assets.Wanted(f"{n:032x}", half) for n in range(3)]
    wanted += [assets.Wanted(f"{n + 9:032x}", 1) for n in range(assets.BUCKET_FILES_MAX + 1)]
    groups = assets.buckets([*wanted, wanted[0]])
    assert sorted(name for group in groups for name in group) == sorted(w.hash for w in wanted)
    sizes = {w.hash: w.size for w in wanted}
    assert all(sum(sizes[n] for n in g) <= assets.BUCKET_BYTES_MAX for g in groups)
    assert all(len(g) <= assets.BUCKET_FILES_MAX for g in groups)
    assert assets.buckets([]) == []
    assert assets.buckets([assets.Wanted("0" * 32, 0)]) == [["0" * 32]]
