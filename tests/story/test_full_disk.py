"""A disk that was full: writes are refused meanwhile, and go on by themselves when there is room."""

from pathlib import Path

import pytest

from tests.chaos.disks import disks, filled
from tests.platforms import running
from tests.processes import wait_until
from tests.story.test_kv import bound, called

pytestmark = pytest.mark.story
QUICK = ("kv_write_ms=1000", "append_ms=2000", "log_look_ms=500")


def test_writing_goes_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    """Goal: nobody has to start anything anew. nats-server would write nothing any more (2.15)."""
    state = tmp_path / "state"
    with disks([state]) as own:
        if not own:
            pytest.skip("needs the right to mount")
        options = [word for limit in QUICK for word in ("--limit", limit)]
        with running(state, *options) as platform:
            bound(platform, "full")
            assert called(platform, "full", ("put", "a", "1")) == [None]
            room = filled(state)
            large = "x" * 5_000
            (told,) = called(platform, "full", ("put", "a", large))
            assert "503" in told
            assert "make room" in told
            assert called(platform, "full", ("get", "a")) == ["1"]
            secret = {"name": "A", "text": "x" * 1_000, "type": "secret_text"}
            refused = platform.call("PUT", "/workers/scripts/full/secrets", json=secret)
            assert refused.status_code >= 500, refused.text
            room()
            wait_until(
                lambda: called(platform, "full", ("put", "a", large)) == [None],
                "keys are written again",
                deadline_s=20,
            )
            assert called(platform, "full", ("get", "a")) == [large]
            again = platform.call("PUT", "/workers/scripts/full/secrets", json=secret)
            assert again.status_code == 200, again.text
