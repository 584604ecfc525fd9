"""Clients that people have, unmodified: aws-cli and rclone on R2's buckets, Cloudflare's own SDK on the API.

One platform for all; each test has buckets, namespaces, databases and queues of its own.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudflare
import httpx
import pytest

from tests.node.r2_running import give_bucket
from tests.platforms import ROOT, RunningPlatform, clean_environment, running

pytestmark = pytest.mark.real
CLIENT_S_MAX = 60
MIB = 1024 * 1024
LARGE_BYTES = 17 * MIB
AWS = ROOT / ".venv" / "bin" / "aws"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with a door for S3, and a Worker with the bucket `shared`."""
    with running(tmp_path_factory.mktemp("clients") / "state", "--s3", "127.0.0.1:0") as platform:
        give_bucket(platform, "cases", "shared")
        platform.get("cases", "/first", method="PUT", content=b"from a Worker")
        yield platform


def door(platform: RunningPlatform) -> tuple[str, str, str]:
    """Return where S3 is spoken, and the keys."""
    told = json.loads((platform.state / "platform.json").read_bytes())
    keys = json.loads((platform.state / "data/r2/s3.json").read_bytes())
    return f"http://{told['s3']}", keys["access_key_id"], keys["secret_access_key"]


class Client:
    """A program, pointed at the platform, in a folder of its own."""

    def __init__(self, argv: tuple[str, ...], folder: Path, **environment: str) -> None:
        self._argv = argv
        self._folder = folder
        self._environment = clean_environment(**environment)

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run one command."""
        return subprocess.run(
            [*self._argv, *words],
            cwd=self._folder,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=CLIENT_S_MAX,
            check=False,
        )

    def do(self, *words: str, stdin: str = "") -> str:
        """Run one that has to work; return what it says."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        """Run one that has to fail; return why it does."""
        done = self.run(*words)
        assert done.returncode != 0, done.stdout
        return done.stderr


@pytest.fixture
def aws(opened: RunningPlatform, tmp_path: Path) -> Client:
    """Return aws-cli, as Cloudflare tells to configure it."""
    url, key, secret = door(opened)
    return Client(
        (str(AWS), "--endpoint-url", url),
        tmp_path,
        AWS_ACCESS_KEY_ID=key,
        AWS_SECRET_ACCESS_KEY=secret,
        AWS_DEFAULT_REGION="auto",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=str(tmp_path / "none"),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
    )


@pytest.fixture
def rclone(opened: RunningPlatform, tmp_path: Path) -> Client:
    """Return rclone, with its own settings for Cloudflare."""
    url, key, secret = door(opened)
    told = {"TYPE": "s3", "PROVIDER": "Cloudflare", "ENDPOINT": url, "REGION": "auto"}
    told |= {"ACCESS_KEY_ID": key, "SECRET_ACCESS_KEY": secret, "ACL": "private"}
    environment = {f"RCLONE_CONFIG_R2_{name}": value for name, value in told.items()}
    once = ("--retries", "1", "--low-level-retries", "1")
    settings = str(tmp_path / "rclone.conf")
    return Client(("rclone", *once), tmp_path, **environment, RCLONE_CONFIG=settings)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with a file that goes in parts, a folder in it, and names that are no ASCII."""
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(MIB) * (LARGE_BYTES // MIB))
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "ü b+c.txt").write_text("b" * 1000)
    return folder


def same(one: Path, other: Path) -> bool:
    """Tell whether two folders hold the same files."""

    def files(folder: Path) -> dict[str, bytes]:
        found = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    return files(one) == files(other)


def test_aws_cli_keeps_a_folder_in_a_bucket_of_its_own(
    aws: Client, tree: Path, tmp_path: Path
) -> None:
    """Goal: mb, sync both ways (17 MiB in parts), cp within the bucket (in parts), ls, presign, rm, rb."""
    aws.do("s3", "mb", "s3://aws-cli")
    aws.do("s3", "sync", "tree", "s3://aws-cli/kept")
    aws.do("s3", "cp", "--quiet", "s3://aws-cli/kept/large", "s3://aws-cli/kept/copy")
    (tree / "copy").write_bytes((tree / "large").read_bytes())
    aws.do("s3", "sync", "s3://aws-cli/kept", "again")
    assert same(tree, tmp_path / "again")
    url = aws.do("s3", "presign", "s3://aws-cli/kept/a.txt").strip()
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(url).content == b"a"
    aws.do("s3", "rm", "--recursive", "s3://aws-cli/kept", "--exclude", "*/ü*")
    assert "sub/ü b+c.txt" in aws.do("s3", "ls", "--recursive", "s3://aws-cli").splitlines()[-1]
    assert "BucketNotEmpty" in aws.refused("s3", "rb", "s3://aws-cli")
    aws.do("s3", "rb", "--force", "s3://aws-cli")
    assert "NoSuchBucket" in aws.refused("s3", "ls", "s3://aws-cli")


def test_rclone_keeps_a_folder_in_a_bucket_of_its_own(
    rclone: Client, tree: Path, tmp_path: Path
) -> None:
    """Goal: copy (in parts; the bucket is made), check, sync, copy and move within, touch, purge."""
    rclone.do("copy", "tree", "r2:rclone/kept", "--s3-upload-cutoff=6M", "--s3-chunk-size=6M")
    rclone.do("check", "tree", "r2:rclone/kept")
    (tree / "a.txt").unlink()
    rclone.do("sync", "tree", "r2:rclone/kept")
    listed = rclone.do("lsf", "-R", "--files-only", "r2:rclone/kept")
    assert sorted(listed.splitlines()) == ["large", "sub/ü b+c.txt"]
    parts = ("--s3-copy-cutoff=6M", "--s3-chunk-size=6M")
    rclone.do("copyto", "r2:rclone/kept/large", "r2:rclone/copy", *parts)
    rclone.do("moveto", "r2:rclone/kept/sub", "r2:rclone/moved")
    rclone.do("touch", "-t", "2020-01-02T03:04:05", "r2:rclone/moved/ü b+c.txt")
    assert "2020-01-02 03:04:05" in rclone.do("lsl", "r2:rclone/moved")
    rclone.do("copyto", "r2:rclone/copy", "back")
    assert (tmp_path / "back").read_bytes() == (tree / "large").read_bytes()
    rclone.do("rcat", "r2:rclone/piped", stdin="piped")
    assert rclone.do("cat", "r2:rclone/piped") == "piped"
    rclone.do("deletefile", "r2:rclone/piped")
    rclone.do("cleanup", "r2:rclone")
    rclone.do("purge", "r2:rclone")
    assert "rclone" not in rclone.do("lsd", "r2:")


@pytest.fixture
def sdk(opened: RunningPlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return Cloudflare's client with the platform's token; it finds no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with cloudflare.Cloudflare(
        api_token=opened.token, base_url=opened.api, max_retries=0, timeout=20
    ) as found:
        yield found


def code_of(error: "pytest.ExceptionInfo[cloudflare.APIStatusError]") -> int:
    """Return Cloudflare's code of what was refused."""
    return int(error.value.errors[0].code or 0)


def test_the_sdk_writes_and_reads_kv(opened: RunningPlatform, sdk: Any) -> None:
    """Goal: a namespace's life; values with metadata and expiry, bulk, pages of keys."""
    namespaces, mine = sdk.kv.namespaces, {"account_id": opened.account_id}
    made = namespaces.create(**mine, title="sdk")
    here = {**mine, "namespace_id": made.id}
    assert "sdk" in [found.title for found in namespaces.list(**mine)]
    namespaces.values.update("k /ü", **here, value=b"text", metadata={"a": 1}, expiration_ttl=600)
    assert namespaces.values.get("k /ü", **here).read() == b"text"
    assert namespaces.metadata.get("k /ü", **here) == {"a": 1}
    many = [{"key": f"n{number:02}", "value": str(number)} for number in range(25)]
    assert namespaces.bulk_update(made.id, **mine, body=many).successful_key_count == 25
    names = [key.name for key in namespaces.keys.list(made.id, **mine, limit=10, prefix="n")]
    assert names == [each["key"] for each in many]
    read = namespaces.bulk_get(made.id, **mine, keys=["n01", "none"]).values
    assert (read["n01"]["value"], read["none"]) == ("1", None)
    namespaces.bulk_delete(made.id, **mine, body=["n01"])
    namespaces.values.delete("n02", **here)
    with pytest.raises(cloudflare.NotFoundError) as error:
        namespaces.values.get("n02", **here)
    assert code_of(error) == 10009
    namespaces.delete(made.id, **mine)
    with pytest.raises(cloudflare.NotFoundError) as error:
        namespaces.get(made.id, **mine)
    assert code_of(error) == 10013


def test_the_sdk_asks_databases(opened: RunningPlatform, sdk: Any) -> None:
    """Goal: a database's life; statements with parameters, a batch, rows as arrays, an error's words."""
    databases, mine = sdk.d1.database, {"account_id": opened.account_id}
    made = databases.create(**mine, name="sdk")
    assert "sdk" in [found.name for found in databases.list(**mine)]
    (created,) = databases.query(made.uuid, **mine, sql="create table t (a, b)")
    assert created.success
    rows = [{"sql": "insert into t values (?, ?)", "params": [n, "x"]} for n in ("1", "2")]
    assert [answer.meta.changes for answer in databases.query(made.uuid, **mine, batch=rows)] == [
        1,
        1,
    ]
    (read,) = databases.query(made.uuid, **mine, sql="select b from t where a = ?", params=["2"])
    assert read.results == [{"b": "x"}]
    (raw,) = databases.raw(made.uuid, **mine, sql="select a from t order by a")
    assert (raw.results.columns, raw.results.rows) == (["a"], [["1"], ["2"]])
    assert databases.get(made.uuid, **mine).num_tables == 1
    with pytest.raises(cloudflare.BadRequestError) as error:
        databases.query(made.uuid, **mine, sql="selec")
    assert code_of(error) == 7500
    databases.delete(made.uuid, **mine)
    with pytest.raises(cloudflare.NotFoundError) as gone:
        databases.get(made.uuid, **mine)
    assert code_of(gone) == 7404


def test_the_sdk_keeps_objects(opened: RunningPlatform, sdk: Any) -> None:
    """Goal: a bucket's life, its objects in pages; what buckets have not is empty or refused by name."""
    buckets, mine = sdk.r2.buckets, {"account_id": opened.account_id}
    assert buckets.create(**mine, name="sdk", storage_class="Standard").name == "sdk"
    assert "sdk" in [found.name for found in buckets.list(**mine).buckets]
    here = {**mine, "bucket_name": "sdk"}
    put = buckets.objects.upload("dir/a", **here, body=b"hello")
    assert (put.key, put.size, put.storage_class) == ("dir/a", "5", "Standard")
    buckets.objects.upload("dir/b", **here, body=b"x")
    found = list(buckets.objects.list("sdk", **mine, prefix="dir/", per_page=1))
    assert [(each.key, each.size) for each in found] == [("dir/a", 5), ("dir/b", 1)]
    assert buckets.objects.get("dir/a", **here).read() == b"hello"
    assert buckets.edit("sdk", **mine, storage_class="InfrequentAccess").storage_class == (
        "InfrequentAccess"
    )
    assert buckets.cors.get("sdk", **mine).rules == []
    assert buckets.sippy.get("sdk", **mine).enabled is False
    with pytest.raises(cloudflare.APIStatusError, match="no cors"):
        buckets.cors.update("sdk", **mine, rules=[])
    with pytest.raises(cloudflare.NotFoundError, match="does not offer metrics of R2"):
        buckets.metrics.list(**mine)
    with pytest.raises(cloudflare.ConflictError) as error:
        buckets.delete("sdk", **mine)
    assert code_of(error) == 10008
    for key in ("dir/a", "dir/b"):
        buckets.objects.delete(key, **here)
    buckets.delete("sdk", **mine)
    with pytest.raises(cloudflare.NotFoundError) as gone:
        buckets.get("sdk", **mine)
    assert code_of(gone) == 10006


def test_the_sdk_sends_and_pulls_messages(opened: RunningPlatform, sdk: Any) -> None:
    """Goal: a queue's life; a consumer that pulls, leases, acknowledgement, retry, purge, metrics."""
    queues, mine = sdk.queues, {"account_id": opened.account_id}
    made = queues.create(**mine, queue_name="sdk")
    assert "sdk" in [found.queue_name for found in queues.list(**mine)]
    here = {**mine, "queue_id": made.queue_id}
    consumer = queues.consumers.create(made.queue_id, **mine, type="http_pull")
    assert queues.consumers.get(consumer.consumer_id, **here).consumer_id == consumer.consumer_id
    queues.messages.push(made.queue_id, **mine, body="one", content_type="text")
    more = [{"body": {"n": 2}, "content_type": "json"}]
    queues.messages.bulk_push(made.queue_id, **mine, messages=more)
    first = queues.messages.pull(made.queue_id, **mine, batch_size=10, visibility_timeout_ms=9000)
    assert [message.body for message in first.messages] == ["one", '{"n":2}']
    settled = queues.messages.ack(
        made.queue_id,
        **mine,
        acks=[{"lease_id": first.messages[0].lease_id}],
        retries=[{"lease_id": first.messages[1].lease_id}],
    )
    assert (settled.ack_count, settled.retry_count) == (1, 1)
    again = queues.messages.pull(made.queue_id, **mine, batch_size=10)
    assert [(message.body, message.attempts) for message in again.messages] == [('{"n":2}', 2)]
    queues.purge.start(made.queue_id, **mine, delete_messages_permanently=True)
    assert queues.get_metrics(made.queue_id, **mine).backlog_count == 0
    assert list(queues.subscriptions.list(**mine)) == []
    queues.consumers.delete(consumer.consumer_id, **here)
    queues.delete(made.queue_id, **mine)
    with pytest.raises(cloudflare.NotFoundError) as error:
        queues.get(made.queue_id, **mine)
    assert code_of(error) == 11000


def test_the_sdk_keeps_workers_of_a_dispatch_namespace(opened: RunningPlatform, sdk: Any) -> None:
    """Goal: a platform builder's program: upload, secrets, tags, settings, other code, delete."""
    namespaces, mine = sdk.workers_for_platforms.dispatch.namespaces, {}
    mine["account_id"] = opened.account_id
    made = namespaces.create(**mine, name="sdk")
    assert made.namespace_name in [each.namespace_name for each in namespaces.list(**mine)]
    scripts, here = namespaces.scripts, {**mine, "dispatch_namespace": "sdk"}

    def files(text: str) -> list[tuple[str, bytes, str]]:
        code = f"export default {{ fetch() {{ return new Response('{text}') }} }}"
        return [("w.js", code.encode(), "application/javascript+module")]

    code = {"main_module": "w.js", "compatibility_date": "2026-01-01"}
    scripts.update("shop", **here, metadata={**code, "tags": ["one"]}, files=files("first"))
    assert scripts.get("shop", **here).script.id == "shop"
    scripts.secrets.update("shop", **here, name="S", text="x", type="secret_text")
    assert [found.name for found in scripts.secrets.list("shop", **here)] == ["S"]
    assert list(scripts.tags.update("shop", **here, body=["a", "b"])) == ["a", "b"]
    scripts.tags.delete("a", **here, script_name="shop")
    assert scripts.settings.get("shop", **here).tags == ["b"]
    assert scripts.settings.edit("shop", **here, settings={"tags": ["c"]}).tags == ["c"]
    scripts.content.update("shop", **here, metadata=code, files=files("second"))
    assert b"second" in scripts.content.get("shop", **here).read()
    assert [found.name for found in scripts.bindings.get("shop", **here)] == ["S"]
    scripts.delete("shop", **here)
    with pytest.raises(cloudflare.NotFoundError) as gone:
        scripts.get("shop", **here)
    assert code_of(gone) == 10092
    namespaces.delete("sdk", **mine)
