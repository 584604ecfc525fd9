"""Workers KV as a worker and wrangler see it: every method, every command, and what outlives a kill."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleets import running_fleet
from tests.platforms import COMMAND, Doors, RunningPlatform, clean_environment, running, start
from tests.processes import command, family, wait_until
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story
CODE = Path(__file__).with_name("kv_worker.js").read_text()
KV = "/storage/kv/namespaces"


def namespace(platform: Doors, title: str) -> str:
    """Make a namespace; return its id."""
    answer = platform.call("POST", KV, json={"title": title}).json()
    assert answer["success"], answer
    found: str = answer["result"]["id"]
    return found


def bound(platform: Doors, worker: str) -> str:
    """Deploy the worker with a namespace of its own; return the namespace's id."""
    found = namespace(platform, worker)
    binding = {"type": "kv_namespace", "name": "KV", "namespace_id": found}
    platform.upload(worker, CODE, bindings=[binding])
    platform.wait_for(worker, "here")
    return found


def called(platform: Doors, worker: str, *calls: tuple[Any, ...]) -> list[Any]:
    """Have the worker call its namespace's methods; return what came of each."""
    asked = json.dumps([{"method": name, "args": list(args)} for name, *args in calls])
    answers: list[httpx.Response] = []

    def answered() -> bool:
        # A front door that has just started may not know the worker yet: then nothing was done.
        answers.append(platform.get(worker, "/", method="POST", content=asked))
        return answers[-1].status_code != 404

    wait_until(answered, f"{worker} answers", deadline_s=5)
    assert answers[-1].status_code == 200, answers[-1].text
    return [each.get("error", each.get("value")) for each in answers[-1].json()]


def pid_of(platform: RunningPlatform, mark: str) -> int:
    """Return the process whose command line has a mark; 0: there is none now."""
    pids = family(platform.process.pid)
    return next((pid for pid in pids if mark in command(pid)), 0)


def test_a_worker_gets_puts_deletes_and_lists(platform: RunningPlatform) -> None:
    """Goal: every method of the binding, from a worker's code."""
    bound(platform, "kv-methods")
    told = called(
        platform,
        "kv-methods",
        ("get", "absent"),
        ("put", "text", "välue"),
        ("get", "text"),
        ("put", "json", '{"a":[1]}', {"metadata": {"ü": 1}, "expirationTtl": 3600}),
        ("get", "json", "json"),
        ("getWithMetadata", "json", {"type": "json", "cacheTtl": 60}),
        ("putBytes", "bytes", [0, 255, 1]),
        ("get", "bytes", "arrayBuffer"),
        ("putStream", "stream", "streamed"),
        ("stream", "stream"),
        ("put", "dir/a b%?#", "odd key"),
        ("get", "dir/a b%?#"),
        ("get", ["text", "json", "absent"]),
        ("getWithMetadata", ["json"], "json"),
        ("delete", "text"),
        ("delete", "text"),
        ("get", "text"),
    )
    assert told[:5] == [None, None, "välue", None, {"a": [1]}]
    assert (told[5]["value"], told[5]["metadata"]) == ({"a": [1]}, {"ü": 1})
    assert told[6:12] == [None, {"bytes": [0, 255, 1]}, None, "streamed", None, "odd key"]
    assert told[12] == {"text": "välue", "json": '{"a":[1]}', "absent": None}
    assert told[13] == {"json": {"value": {"a": [1]}, "metadata": {"ü": 1}}}
    assert told[14:] == [None, None, None]
    (first,) = called(platform, "kv-methods", ("list", {"limit": 3}))
    assert [key["name"] for key in first["keys"]] == ["bytes", "dir/a b%?#", "json"]
    assert first["keys"][2]["metadata"] == {"ü": 1}
    assert not first["list_complete"]
    (rest,) = called(platform, "kv-methods", ("list", {"cursor": first["cursor"]}))
    assert ([key["name"] for key in rest["keys"]], rest["list_complete"]) == (["stream"], True)
    (some,) = called(platform, "kv-methods", ("list", {"prefix": "dir/"}))
    assert [key["name"] for key in some["keys"]] == ["dir/a b%?#"]


def test_a_worker_is_refused_what_cloudflare_refuses(platform: RunningPlatform) -> None:
    """Goal: the same words in the exception."""
    bound(platform, "kv-refused")
    told = called(
        platform,
        "kv-refused",
        ("put", "k", "v", {"expirationTtl": 59}),
        ("put", "k", "v", {"expiration": 1}),
        ("put", "k", "v", {"metadata": "m" * 1023}),
        ("put", "k" * 513, "v"),
        ("put", "k" * 512, "v"),
        ("get", "k" * 512),
        ("get", ""),
        ("get", "k", {"cacheTtl": 1}),
        ("list", {"limit": 1001}),
        ("get", ["k"] * 101),
        ("putLarge", "large", 25 * 1024 * 1024 + 1, 7),
        ("putLarge", "large", 25 * 1024 * 1024, 7),
        ("large", "large"),
    )
    assert "400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60." in told[0]
    assert "400 Invalid expiration of 1." in told[1]
    assert "413 Metadata length of 1025 exceeds limit of 1024." in told[2]
    assert "414 UTF-8 encoded length of 513 exceeds key length limit of 512." in told[3]
    assert told[4:6] == [None, "v"]
    assert "Key name cannot be empty" in told[6]
    assert "400 Invalid cache_ttl of 1." in told[7]
    assert "400 Invalid key_count_limit of 1001." in told[8]
    assert "400 You can request a maximum of 100 keys" in told[9]
    assert "413 Value length of 26214401 exceeds limit of 26214400." in told[10]
    assert told[11:] == [None, {"size": 25 * 1024 * 1024, "first": 7, "last": 7}]


def test_what_was_acknowledged_outlives_store_log_and_platform(state: Path) -> None:
    """Goal: no kill takes back an acknowledged write. Method: `kill -9` of each, between writes; a
    write that fails meanwhile is nobody's promise."""
    platform = start(state)
    try:
        bound(platform, "kv-kills")
        promised: dict[str, str] = {}

        def write(key: str, size: int) -> None:
            value = key * size
            if called(platform, "kv-kills", ("put", key, value)) == [None]:
                promised[key] = value

        def kept() -> bool:
            found = called(platform, "kv-kills", *(("get", key) for key in promised))
            return found == list(promised.values())

        for mark in ("kythera.node.kv_server", "nats-server", "kythera.node.agent"):
            for number in range(5):
                write(f"{mark}-{number}", 1 if number else 10_000)
            os.kill(pid_of(platform, mark), signal.SIGKILL)
            write(f"{mark}-meanwhile", 1)
            wait_until(kept, f"what was acknowledged before {mark} was killed", deadline_s=20)
        platform.kill()
        platform = start(state)
        platform.wait_for("kv-kills", "here", deadline_s=10)
        wait_until(kept, "what was acknowledged before the platform was killed", deadline_s=20)
        assert len(promised) >= 15
    finally:
        platform.stop()


def test_a_store_that_hangs_is_replaced(state: Path) -> None:
    """Goal: a process that stands still is not waited for for ever."""
    with running(state, "--limit", "kv_silent_ms_max=1000") as platform:
        bound(platform, "kv-hangs")
        assert called(platform, "kv-hangs", ("put", "k", "v")) == [None]
        hanging = pid_of(platform, "kythera.node.kv_server")
        os.kill(hanging, signal.SIGSTOP)
        wait_until(
            lambda: pid_of(platform, "kythera.node.kv_server") not in (0, hanging),
            "another store runs",
            deadline_s=15,
        )
        assert called(platform, "kv-hangs", ("get", "k")) == ["v"]


def test_a_deleted_namespace_is_gone_for_its_workers_too(platform: RunningPlatform) -> None:
    """Goal: deleting a namespace deletes its data; a worker that still has it is told."""
    found = bound(platform, "kv-gone")
    assert called(platform, "kv-gone", ("put", "k", "v")) == [None]
    assert platform.call("DELETE", f"{KV}/{found}").status_code == 200
    (told,) = called(platform, "kv-gone", ("get", "k"))
    assert "This KV namespace was deleted" in told


def test_keys_come_back_from_a_backup(tmp_path: Path) -> None:
    """Goal: small and large values, taken while they are written, in a folder that had nothing."""
    file, again = tmp_path / "kythera.tar", tmp_path / "again"
    large = ("putLarge", "large", 1_000_000, 7)
    with running(tmp_path / "first") as platform:
        bound(platform, "kv-backup")
        small = [("put", f"k{n}", str(n), {"metadata": n}) for n in range(300)]
        assert set(called(platform, "kv-backup", *small, large, ("delete", "k7"))) == {None}
        done = platform.kythera("backup", "create", str(file))
        assert done.returncode == 0, done.stderr
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    subprocess.run(argv, env=clean_environment(), timeout=60, check=True, capture_output=True)
    with running(again) as platform:
        # Not waited for: a restored platform is ready when what was restored is served.
        told = called(
            platform, "kv-backup", ("getWithMetadata", "k299"), ("get", "k7"), ("large", "large")
        )
        assert (told[0]["value"], told[0]["metadata"]) == ("299", 299)
        assert told[1:] == [None, {"size": 1_000_000, "first": 7, "last": 7}]
        assert called(platform, "kv-backup", ("put", "k7", "new"), ("get", "k7")) == [None, "new"]
        platform.kill()
    with running(again) as platform:
        platform.wait_for("kv-backup", "here", deadline_s=10)
        assert called(platform, "kv-backup", ("get", "k7"), ("get", "k8")) == ["new", "8"]


def test_each_machine_of_a_fleet_reads_its_own_copy_of_the_one_log() -> None:
    """Goal: a write on either machine is read on both, large values too."""
    with running_fleet(2, 1) as fleet:
        first, second = fleet.machines
        bound(first, "kv-fleet")
        second.wait_for("kv-fleet", "here", deadline_s=20)
        for writer, reader, key in ((first, second, "a"), (second, first, "b")):
            assert called(writer, "kv-fleet", ("put", key, "v")) == [None]
            wait_until(
                lambda: called(reader, "kv-fleet", ("get", key)) == ["v"],  # noqa: B023
                f"{key} is read on the other machine",
                deadline_s=10,
            )
        assert called(first, "kv-fleet", ("putLarge", "large", 1_000_000, 7)) == [None]
        large = {"size": 1_000_000, "first": 7, "last": 7}
        wait_until(
            lambda: called(second, "kv-fleet", ("large", "large")) == [large],
            "the large value is read there",
            deadline_s=10,
        )


def test_wranglers_namespace_commands(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: create, list, rename, delete."""
    title = wrangler.name("kv-namespace")
    wrangler.do("kv", "namespace", "create", title, project=tmp_path)
    listed = wrangler.do("kv", "namespace", "list", project=tmp_path).json()
    found = next(each["id"] for each in listed if each["title"] == title)
    again = wrangler.run("kv", "namespace", "create", title, project=tmp_path)
    assert again.code != 0
    assert "already exists" in again.text
    wrangler.do(
        *("kv", "namespace", "rename", "--namespace-id", found, "--new-name", f"{title}-b"),
        project=tmp_path,
    )
    listed = wrangler.do("kv", "namespace", "list", project=tmp_path).json()
    assert {"id": found, "title": f"{title}-b"}.items() <= next(
        each for each in listed if each["id"] == found
    ).items()
    wrangler.do("kv", "namespace", "delete", "--namespace-id", found, "-y", project=tmp_path)
    listed = wrangler.do("kv", "namespace", "list", project=tmp_path).json()
    assert found not in [each["id"] for each in listed]


def test_wranglers_key_and_bulk_commands(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: put (with metadata, a time to live, a file), get, list, delete; and many at a time."""
    found = namespace(wrangler.platform, wrangler.name("kv-keys"))
    where = ("--namespace-id", found, "--remote")

    def kv(*words: str) -> Any:
        return wrangler.do("kv", *words, *where, project=tmp_path)

    raw = bytes(range(256)) * 10
    (tmp_path / "blob.bin").write_bytes(raw)
    kv("key", "put", "k1", "val1")
    kv("key", "put", "dir/k 2", "val2", "--metadata", '{"a":1}', "--ttl", "3600")
    kv("key", "put", "k3", "--path", "blob.bin")
    assert kv("key", "get", "k1").stdout.strip().endswith("val1")
    assert kv("key", "get", "dir/k 2", "--text").stdout.strip().endswith("val2")
    missing = wrangler.run("kv", "key", "get", "nope", *where, project=tmp_path)
    assert "val" not in missing.stdout
    keys = {key["name"]: key for key in kv("key", "list").json()}
    assert sorted(keys) == ["dir/k 2", "k1", "k3"]
    assert keys["dir/k 2"]["metadata"] == {"a": 1}
    answer = wrangler.platform.call("GET", f"{KV}/{found}/values/k3")
    assert answer.content == raw
    kv("key", "delete", "k1")
    pairs = [{"key": f"b{n}", "value": str(n)} for n in range(20)]
    pairs.append({"key": "raw", "value": "AAEC", "base64": True})  # type: ignore[dict-item]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    kv("bulk", "put", "pairs.json")
    (tmp_path / "keys.json").write_text(json.dumps(["b1", "b2", "none"]))
    got = kv("bulk", "get", "keys.json").stdout
    assert '"b1"' in got
    kv("bulk", "delete", "keys.json", "--force")
    names = [key["name"] for key in kv("key", "list", "--prefix", "b").json()]
    assert names == sorted(f"b{n}" for n in range(20) if n not in (1, 2))


def test_wrangler_deploy_provisions_a_namespace_without_an_id(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: `kv_namespaces` with a binding alone; the second deploy takes the same namespace."""
    name, platform = wrangler.name("kv-provisioned"), wrangler.platform
    config = {"name": name, "kv_namespaces": [{"binding": "KV"}]}
    write_project(tmp_path, config, {"index.js": CODE})
    wrangler.do("deploy", project=tmp_path)
    platform.wait_for(name, "here")
    assert called(platform, name, ("put", "k", "v"), ("get", "k")) == [None, "v"]
    bindings = platform.call("GET", f"/workers/scripts/{name}/settings").json()["result"][
        "bindings"
    ]
    wrangler.do("deploy", project=tmp_path)
    platform.wait_for(name, "here")
    assert called(platform, name, ("get", "k")) == ["v"]
    settings = platform.call("GET", f"/workers/scripts/{name}/settings").json()["result"]
    assert settings["bindings"] == bindings
    titles = [each["title"] for each in platform.call("GET", KV).json()["result"]]
    assert sum(name in title for title in titles) == 1
