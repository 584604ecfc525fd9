"""boto3, unmodified, on R2's buckets: objects, lists, parts, presigned URLs, and what is refused."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.node.r2_running import give_bucket
from tests.platforms import RunningPlatform, running

pytestmark = pytest.mark.real
BUCKET = "outside"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with a door for S3, and a bucket."""
    with running(tmp_path_factory.mktemp("s3") / "state", "--s3", "127.0.0.1:0") as platform:
        give_bucket(platform, "cases", BUCKET)
        platform.get("cases", "/first", method="PUT", content=b"from a Worker")
        yield platform


def client(platform: RunningPlatform, **keys: str) -> Any:
    """Return boto3's client, as Cloudflare tells to make it."""
    kept = json.loads((platform.state / "data/r2/s3.json").read_bytes())
    told = json.loads((platform.state / "platform.json").read_bytes())
    given = {
        "aws_access_key_id": kept["access_key_id"],
        "aws_secret_access_key": kept["secret_access_key"],
        **keys,
    }
    config = Config(retries={"total_max_attempts": 1}, proxies={})
    return boto3.client(
        "s3", endpoint_url=f"http://{told['s3']}", region_name="auto", config=config, **given
    )


@pytest.fixture
def s3(opened: RunningPlatform) -> Iterator[Any]:
    """Return a client with the platform's keys."""
    found = client(opened)
    yield found
    found.close()


def refused(doing: Any, **more: Any) -> str:
    """Return the code with which a call is refused."""
    with pytest.raises(ClientError) as error:
        doing(**more)
    code: str = error.value.response["Error"]["Code"]
    return code


def test_worker_and_client_see_the_same_objects(opened: RunningPlatform, s3: Any) -> None:
    """Goal: one bucket, two doors; headers and metadata travel both ways."""
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == [BUCKET]
    assert s3.get_object(Bucket=BUCKET, Key="first")["Body"].read() == b"from a Worker"
    s3.put_object(
        Bucket=BUCKET, Key="dir//ü b", Body=b"hello", ContentType="text/x", Metadata={"who": "me"}
    )
    assert opened.get("cases", "/copy").status_code == 404
    got = s3.get_object(Bucket=BUCKET, Key="dir//ü b", Range="bytes=1-2")
    assert (got["Body"].read(), got["ContentRange"]) == (b"el", "bytes 1-2/5")
    head = s3.head_object(Bucket=BUCKET, Key="dir//ü b")
    assert (head["ContentType"], head["Metadata"], head["ContentLength"]) == (
        "text/x",
        {"who": "me"},
        5,
    )
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "dir//ü b"})
    assert s3.head_object(Bucket=BUCKET, Key="copy")["Metadata"] == {"who": "me"}
    assert opened.get("cases", "/copy").content == b"hello"


def test_lists_fold_and_page(s3: Any) -> None:
    """Goal: both forms of a list, in pages, folded; many deleted at once."""
    keys = [f"list/{n:02}/{name}" for n in range(7) for name in ("a b", "ü&<")]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    for operation in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(operation).paginate(
            Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 4}
        )
        assert [found["Key"] for page in pages for found in page["Contents"]] == keys
        folded = s3.get_paginator(operation).paginate(
            Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 3}
        )
        prefixes = [one["Prefix"] for page in folded for one in page.get("CommonPrefixes", [])]
        assert prefixes == [f"list/{n:02}/" for n in range(7)]
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="list/")["KeyCount"] == 0


def test_a_large_file_goes_in_parts(s3: Any, tmp_path: Any) -> None:
    """Goal: upload_file and download_file, as everybody uses them."""
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(b"".join(bytes([n]) * MIB for n in range(18)))
    parts = TransferConfig(
        multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB, use_threads=False
    )
    s3.upload_file(str(sent), BUCKET, "large", Config=parts)
    assert s3.head_object(Bucket=BUCKET, Key="large")["ETag"].endswith('-3"')
    s3.download_file(BUCKET, "large", str(got), Config=parts)
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(sent.read_bytes()).digest()


def test_a_presigned_url_opens_one_object_for_a_while(s3: Any) -> None:
    """Goal: read and write without keys; not another object, nor with a letter changed."""
    s3.put_object(Bucket=BUCKET, Key="shown", Body=b"shown")
    where = {"Bucket": BUCKET, "Key": "shown"}
    url = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    put = s3.generate_presigned_url("put_object", Params={**where, "Key": "given"}, ExpiresIn=60)
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(url).content == b"shown"
        assert browser.get(url.replace("/shown", "/first")).status_code == 403
        assert browser.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")).status_code == 403
        assert browser.put(put, content=b"given").status_code == 200
        assert browser.get(url.partition("?")[0]).status_code == 401
    assert s3.get_object(Bucket=BUCKET, Key="given")["Body"].read() == b"given"


def test_uploads_under_way_and_their_parts_are_listed(s3: Any) -> None:
    """Goal: pages of both, keys and markers as the client knows them; a part copied from an object."""
    keys = ["up/a.b", "up/ü [x]"]
    begun = {key: s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"] for key in keys}
    pages = s3.get_paginator("list_multipart_uploads").paginate(
        Bucket=BUCKET, Prefix="up/", PaginationConfig={"PageSize": 1}
    )
    assert {u["Key"]: u["UploadId"] for page in pages for u in page.get("Uploads", [])} == begun
    one = {"Bucket": BUCKET, "Key": keys[1], "UploadId": begun[keys[1]]}
    s3.put_object(Bucket=BUCKET, Key="source", Body=b"s" * 6 * MIB)
    for number in (1, 2):
        s3.upload_part_copy(
            **one,
            PartNumber=number,
            CopySource={"Bucket": BUCKET, "Key": "source"},
            CopySourceRange=f"bytes={number}-{5 * MIB}",
        )
    shown = s3.get_paginator("list_parts").paginate(**one, PaginationConfig={"PageSize": 1})
    parts = [part for page in shown for part in page["Parts"]]
    assert [(p["PartNumber"], p["Size"]) for p in parts] == [(1, 5 * MIB), (2, 5 * MIB - 1)]
    told = [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in parts]
    s3.complete_multipart_upload(**one, MultipartUpload={"Parts": told})
    assert s3.head_object(Bucket=BUCKET, Key=keys[1])["ContentLength"] == 10 * MIB - 1
    s3.abort_multipart_upload(Bucket=BUCKET, Key=keys[0], UploadId=begun[keys[0]])
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET, Prefix="up/")


def test_a_copy_holds_to_its_own_conditions_and_may_say_other_things(s3: Any) -> None:
    """Goal: CopySourceIfMatch decides; REPLACE keeps what the request says."""
    etag = s3.put_object(Bucket=BUCKET, Key="from", Body=b"x", ContentType="a/b")["ETag"]
    where = {"Bucket": BUCKET, "Key": "to", "CopySource": {"Bucket": BUCKET, "Key": "from"}}
    assert refused(s3.copy_object, **where, CopySourceIfMatch='"other"') == "PreconditionFailed"
    s3.copy_object(**where, CopySourceIfMatch=etag, MetadataDirective="REPLACE", ContentType="c/d")
    assert s3.head_object(Bucket=BUCKET, Key="to")["ContentType"] == "c/d"


def test_conditions_hold_for_clients_too(s3: Any) -> None:
    """Goal: If-None-Match and If-Match on writes, 304 and 412 on reads."""
    etag = s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")["ETag"]
    where = {"Bucket": BUCKET, "Key": "once"}
    assert refused(s3.put_object, **where, Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    assert refused(s3.put_object, **where, Body=b"2", IfMatch='"x"') == "PreconditionFailed"
    assert refused(s3.get_object, **where, IfNoneMatch=etag) == "304"
    assert refused(s3.get_object, **where, IfMatch='"x"') == "PreconditionFailed"
    assert s3.get_object(**where, IfMatch=etag)["Body"].read() == b"1"


def test_who_has_no_keys_and_what_is_not_offered_is_refused(
    opened: RunningPlatform, s3: Any
) -> None:
    """Goal: each refusal in S3's own words."""
    for keys in ({"aws_secret_access_key": "x" * 64}, {"aws_access_key_id": "y" * 32}):
        stranger = client(opened, **keys)
        assert refused(stranger.get_object, Bucket=BUCKET, Key="first") == "SignatureDoesNotMatch"
        stranger.close()
    assert refused(s3.get_object, Bucket=BUCKET, Key="none") == "NoSuchKey"
    assert refused(s3.list_objects_v2, Bucket="no-such-bucket") == "NoSuchBucket"
    assert refused(s3.create_bucket, Bucket=BUCKET) == "BucketAlreadyOwnedByYou"
    for setting, word in (
        (s3.get_bucket_cors, "NoSuchCORSConfiguration"),
        (s3.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration"),
        (s3.get_bucket_encryption, "ServerSideEncryptionConfigurationNotFoundError"),
        (s3.get_bucket_acl, "NotImplemented"),
        (s3.get_bucket_policy, "NotImplemented"),
    ):
        assert refused(setting, Bucket=BUCKET) == word
    tagged = {"Bucket": BUCKET, "Key": "tagged", "Body": b"", "Tagging": "a=b"}
    assert refused(s3.put_object, **tagged) == "NotImplemented"
    assert refused(s3.head_object, Bucket=BUCKET, Key="tagged") == "404"
    assert refused(s3.create_bucket, Bucket="Not_A_Name") == "InvalidBucketName"
    assert refused(s3.get_object_tagging, Bucket=BUCKET, Key="first") == "NotImplemented"
