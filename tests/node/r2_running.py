"""A platform with a Worker that has a bucket, and its two processes to look for."""

import json
from pathlib import Path

from tests.platforms import RunningPlatform
from tests.processes import family

CASES = (Path(__file__).parent / "r2_cases.js").read_text(encoding="utf-8")
STORE, ENGINE = b"kythera.store.r2_server", b"/bin/weed"


def make_bucket(platform: RunningPlatform, bucket: str) -> None:
    """Make a bucket through the API."""
    made = platform.call("POST", "/r2/buckets", content=json.dumps({"name": bucket}))
    assert made.status_code == 200, made.text


def give_bucket(platform: RunningPlatform, worker: str, bucket: str) -> None:
    """Deploy the cases, with a bucket of their own."""
    make_bucket(platform, bucket)
    binding = {"type": "r2_bucket", "name": "BUCKET", "bucket_name": bucket}
    platform.upload(worker, CASES, bindings=[binding])


def pids(platform: RunningPlatform, program: bytes) -> list[int]:
    """Return the platform's processes that run a program: R2's store or its engine."""
    found = []
    for pid in family(platform.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == program or program in words[1:3]:
            found.append(pid)
    return found
