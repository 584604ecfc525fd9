"""wrangler's R2 commands, both versions, and a deploy with a bucket."""

import json
from pathlib import Path

import pytest

from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story

READS = """
export default { async fetch(request, env) {
  const key = new URL(request.url).pathname.slice(1);
  if (request.method === 'PUT') await env.BUCKET.put(key, request.body);
  const found = await env.BUCKET.get(key);
  return found === null ? new Response('none', { status: 404 }) : new Response(found.body);
} };
"""


def test_buckets_are_made_listed_shown_and_deleted(wrangler: Wrangler) -> None:
    """Goal: `wrangler r2 bucket …`: each command, and what it refuses."""
    bucket = wrangler.name("bucket")
    wrangler.do("r2", "bucket", "create", bucket, "--location", "weur")
    twice = wrangler.run("r2", "bucket", "create", bucket)
    assert twice.code != 0
    assert "10004" in twice.text
    assert bucket in wrangler.do("r2", "bucket", "list").text
    assert bucket in wrangler.do("r2", "bucket", "info", bucket).text
    for what in ("cors", "lifecycle", "domain"):
        wrangler.do("r2", "bucket", what, "list", bucket)
    wrangler.do("r2", "bucket", "delete", bucket)
    gone = wrangler.run("r2", "bucket", "info", bucket)
    assert gone.code != 0
    assert "10006" in gone.text


def test_objects_are_put_read_and_deleted(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: `wrangler r2 object …`: from a file and from a pipe, headers kept, 404s understood."""
    bucket, sent, got = wrangler.name("objects"), tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(bytes(range(256)) * 4096)
    wrangler.do("r2", "bucket", "create", bucket)
    place = f"{bucket}/dir/a b.bin"
    kept = ("--content-type", "application/x-foo", "--cache-control", "max-age=1")
    wrangler.do("r2", "object", "put", place, "--file", str(sent), *kept, "--remote")
    wrangler.do("r2", "object", "get", place, "--file", str(got), "--remote")
    assert got.read_bytes() == sent.read_bytes()
    shown = wrangler.platform.call("GET", f"/r2/buckets/{bucket}/objects/dir/a%20b.bin")
    assert shown.headers["content-type"] == "application/x-foo"
    assert shown.headers["cache-control"] == "max-age=1"
    wrangler.do("r2", "object", "put", f"{bucket}/piped", "--pipe", "--remote", stdin="piped")
    piped = wrangler.platform.call("GET", f"/r2/buckets/{bucket}/objects/piped")
    assert piped.content == b"piped"
    full = wrangler.run("r2", "bucket", "delete", bucket)
    assert full.code != 0
    assert "10008" in full.text
    for key in ("dir/a b.bin", "piped"):
        wrangler.do("r2", "object", "delete", f"{bucket}/{key}", "--remote")
    absent = wrangler.run("r2", "object", "get", place, "--file", str(got), "--remote")
    assert absent.code != 0
    assert "does not exist" in absent.text
    wrangler.do("r2", "bucket", "delete", bucket)


def test_a_deploy_makes_the_bucket_that_it_lacks(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: provisioning: a binding without a bucket's name gets one; the next deploy keeps it."""
    name = wrangler.name("provisioned")
    config = {"name": name, "r2_buckets": [{"binding": "BUCKET"}]}
    project = write_project(tmp_path, config, {"index.js": READS})
    wrangler.do("deploy", project=project)
    wrangler.platform.wait_for(name, "none", "/absent")
    assert wrangler.platform.get(name, "/k", method="PUT", content=b"kept").text == "kept"
    wrangler.do("deploy", project=project)
    wrangler.platform.wait_for(name, "kept", "/k")


def test_an_upload_whose_bucket_is_not_there_is_refused_by_name(wrangler: Wrangler) -> None:
    """Goal: 10085, the bucket's and the binding's name, and nothing stored."""
    name = wrangler.name("bucketless")
    binding = {"type": "r2_bucket", "name": "BUCKET", "bucket_name": "not-there"}
    document = {"main_module": "w.js", "bindings": [binding]}
    files = {
        "metadata": (None, json.dumps(document), "application/json"),
        "w.js": ("w.js", READS, "application/javascript+module"),
    }
    refused = wrangler.platform.call("PUT", f"/workers/scripts/{name}", files=files)
    (error,) = refused.json()["errors"]
    assert error["code"] == 10085
    assert "binding 'BUCKET' references bucket 'not-there' which was not found" in error["message"]
    assert wrangler.platform.call("GET", f"/workers/services/{name}").status_code == 404
