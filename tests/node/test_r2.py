"""R2's binding in a real cell, over the real store and the real SeaweedFS."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.node.r2_running import give_bucket
from tests.platforms import RunningPlatform, running

pytestmark = pytest.mark.real
HELLO_MD5 = "5d41402abc4b2a76b9719d911017c592"
HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return a platform with the Worker `cases` and its bucket."""
    with running(tmp_path_factory.mktemp("r2") / "state") as platform:
        give_bucket(platform, "cases", "bucket-1")
        yield platform


def told(platform: RunningPlatform, case: str) -> Any:
    """Return what a case answers."""
    answer = platform.get("cases", f"/{case}")
    assert answer.status_code == 200, f"{answer.text}\n{platform.tail()}"
    return answer.json()


def test_an_object_comes_back_with_all_that_was_said_of_it(cases: RunningPlatform) -> None:
    """Goal: bytes, etag, metadata of both kinds, md5, version, time; null where there is none."""
    assert told(cases, "put_get") == {
        "text": "hello",
        "etag": f'"{HELLO_MD5}"',
        "custom": {"x": "ü", "Y": "z"},
        "size": 5,
        "headers": {
            "content-type": "text/x",
            "cache-control": "no-cache",
            "expires": "Sun, 09 Sep 2001 01:46:40 GMT",
        },
        "sums": {"md5": HELLO_MD5},
        "storage": "Standard",
        "same": True,
        "recent": True,
        "missing": None,
    }


def test_every_kind_of_body_is_taken_and_given(cases: RunningPlatform) -> None:
    """Goal: text, bytes, blob, nothing, a stream; json(), arrayBuffer(), blob(), body."""
    assert told(cases, "bodies") == [{"a": 1}, [1, 2, 3], "blob", 0, "stream"]


def test_head_tells_of_an_object_without_its_bytes(cases: RunningPlatform) -> None:
    """Goal: head(), and null for what is not there."""
    assert told(cases, "head") == ["h", 5, {"a": "b"}, False, None]


def test_parts_of_an_object_are_read(cases: RunningPlatform) -> None:
    """Goal: offset, length, suffix, a Range header; 10039 beyond the end."""
    parts, beyond = told(cases, "ranges")
    assert parts == [
        ["234", 2, 3, 10],
        ["789", 7, 3, 10],
        ["01", 0, 2, 10],
        ["89", 8, 2, 10],
        ["12", 1, 2, 10],
    ]
    assert beyond == "get: The requested range is not satisfiable (10039)"


def test_conditions_decide_reads_and_writes(cases: RunningPlatform) -> None:
    """Goal: onlyIf by etag, by date, by headers; a write that may not be is null."""
    reads = [True, False, False, True, False, True, False, False]
    assert told(cases, "conditions") == [*reads, False, True, False, True]


def test_of_racing_creators_one_wins(cases: RunningPlatform) -> None:
    """Goal: a conditional write is decided and done in one step."""
    assert told(cases, "race") == 1


def test_a_checksum_is_verified_and_shown(cases: RunningPlatform) -> None:
    """Goal: what is not its checksum becomes no object, however large (10037)."""
    shown, bad, code, there = told(cases, "checksums")
    assert shown == HELLO_SHA256
    assert bad.startswith("put: The SHA-256 checksum you specified did not match")
    assert (code, there) == (" (10037)", None)


def test_lists_fold_page_and_include(cases: RunningPlatform) -> None:
    """Goal: byte order, delimiters, cursors, startAfter, include; keys that no folder could hold."""
    whole, truncated, one, two, after, custom, refused = told(cases, "list")
    keys = ["//w", "a", "a-b", "a/b", "a/b/c", "k\x01", "x/1", "x/2", "ü/😀"]
    assert whole == ["L" + key for key in keys]
    assert truncated is False
    assert one == [["La", "La-b"], ["L/"], True]
    assert two == [["Lk\x01"], ["La/", "Lx/", "Lü/"], False]
    assert after == ["La/b/c", "Lk\x01", "Lx/1", "Lx/2", "Lü/😀"]
    assert custom == [{"key": "1"}, True]
    assert refused == "list: MaxKeys params must be positive integer <= 1000. (10022)"


def test_objects_are_deleted_one_by_one_and_many_at_once(cases: RunningPlatform) -> None:
    """Goal: delete(key) and delete(keys); what is not there is no error."""
    assert told(cases, "remove") == ["D3/x"]


def test_an_object_is_made_of_parts(cases: RunningPlatform) -> None:
    """Goal: create, upload, resume, complete."""
    size = 5 * 1024 * 1024 + 3
    metadata = [{"q": "1"}, {"contentType": "a/b"}]
    assert told(cases, "multipart") == [size, True, "end", *metadata, {}]


def test_parts_that_make_no_object_are_refused(cases: RunningPlatform) -> None:
    """Goal: Cloudflare's 10011, 10025 and 10024."""
    (small, absent, over, twice), there = told(cases, "multipart_refused")
    assert small.endswith("smaller than the minimum allowed object size. (10011)")
    assert absent.endswith("One or more of the specified parts could not be found. (10025)")
    assert over == "uploadPart: The specified multipart upload does not exist. (10024)"
    assert twice in (over.replace("uploadPart", "abortMultipartUpload"), "done")
    assert there is None


def test_what_cannot_be_kept_is_refused_by_name(cases: RunningPlatform) -> None:
    """Goal: keys, metadata, storage classes, customers' keys."""
    long, fits, metadata, ssec, unknown, infrequent = told(cases, "limits")
    assert long == "put: The specified object name is not valid. (10020)"
    assert fits == "done"
    assert metadata.endswith("exceed the maximum allowed metadata size. (10012)")
    assert ssec.endswith("(ssecKey) is not offered on this platform. (10041)")
    assert unknown.endswith("(10029)")
    assert infrequent == "InfrequentAccess"
