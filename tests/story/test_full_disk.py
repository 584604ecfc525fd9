"""A disk that was full: writes are refused meanwhile, and go on by themselves when there is room."""

from collections.abc import Iterator

import pytest

from tests.chaos.disks import disks, filled
from tests.platforms import RunningPlatform, running
from tests.processes import wait_until
from tests.story.test_kv import bound, called

pytestmark = pytest.mark.story
QUICK = ("kv_write_ms=1000", "append_ms=2000", "log_look_ms=500")
BUCKET = """
export default {
  async fetch(request, env) {
    if (request.method === 'GET') {
      return new Response(await (await env.R2.get('first')).text());
    }
    const key = new URL(request.url).pathname.slice(1);
    try {
      await env.R2.put(key, key, { customMetadata: { long: 'x'.repeat(4000) } });
    } catch (error) {
      return new Response(String(error), { status: 503 });
    }
    return new Response('kept');
  },
};
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform on a disk of its own."""
    state = tmp_path_factory.mktemp("full") / "state"
    with disks([state]) as own:
        if not own:
            pytest.skip("needs the right to mount")
        options = [word for limit in QUICK for word in ("--limit", limit)]
        with running(state, *options) as platform:
            yield platform


def test_writing_goes_on_when_a_full_disk_has_room_again(small: RunningPlatform) -> None:
    """Goal: nobody has to start anything anew. nats-server would write nothing any more (2.15)."""
    bound(small, "full")
    assert called(small, "full", ("put", "a", "1")) == [None]
    room = filled(small.state)
    large = "x" * 5_000
    (told,) = called(small, "full", ("put", "a", large))
    assert "503" in told
    assert "make room" in told
    assert called(small, "full", ("get", "a")) == ["1"]
    secret = {"name": "A", "text": "x" * 1_000, "type": "secret_text"}
    refused = small.call("PUT", "/workers/scripts/full/secrets", json=secret)
    assert refused.status_code >= 500, refused.text
    room()
    wait_until(
        lambda: called(small, "full", ("put", "a", large)) == [None],
        "keys are written again",
        deadline_s=20,
    )
    assert called(small, "full", ("get", "a")) == [large]
    again = small.call("PUT", "/workers/scripts/full/secrets", json=secret)
    assert again.status_code == 200, again.text


def test_buckets_are_written_again_when_a_full_disk_has_room(small: RunningPlatform) -> None:
    """Goal: the same for R2, whose engine's LevelDB would refuse all. Method: until it does refuse, then
    room, then until it does not."""
    assert small.call("POST", "/r2/buckets", json={"name": "full"}).is_success
    binding = {"type": "r2_bucket", "name": "R2", "bucket_name": "full"}
    small.upload("bucket", BUCKET, bindings=[binding])
    numbers = iter(range(1_000_000))

    def put(key: str) -> bool:
        return small.get("bucket", f"/{key}", method="POST").text == "kept"

    assert put("first")
    room = filled(small.state)
    wait_until(lambda: not put(f"k{next(numbers)}"), "writes are refused", deadline_s=20)
    assert small.get("bucket").text == "first"
    room()
    wait_until(lambda: put(f"k{next(numbers)}"), "buckets are written again", deadline_s=30)
    assert small.get("bucket").text == "first"
