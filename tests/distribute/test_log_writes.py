"""What nats-server says of writes that failed, as it says it (2.15)."""

import json
from pathlib import Path

from kythera.distribute.log_writes import write_error_in
from kythera.ground.files import has_room

FULL = "JetStream stream 'RECORDS > KV' write error: write /s/msgs/1.blk: no space left on device"


def health(**data: object) -> bytes:
    """Return a server's account of its health."""
    return json.dumps({"server": {"name": "kythera-1"}, "data": data}).encode()


def test_a_stream_that_cannot_write_is_told_apart_from_other_trouble() -> None:
    """Goal: nobody starts a server anew because it catches up."""
    one = {"type": "STREAM", "account": "RECORDS", "stream": "KV", "error": FULL}
    other = {"type": "STREAM", "error": "JetStream stream 'RECORDS > KV' is not current"}
    assert write_error_in(health(status="error", status_code=503, errors=[other, one])) == FULL
    assert write_error_in(health(status="unavailable", status_code=503, error=FULL)) == FULL
    assert write_error_in(health(status="error", status_code=503, errors=[other])) == ""
    assert write_error_in(health(status="ok", status_code=200)) == ""
    assert write_error_in(b"{}") == ""


def test_a_disk_has_room_or_not(tmp_path: Path) -> None:
    """Goal: the room that a server needs to start."""
    assert has_room(tmp_path, 1)
    assert not has_room(tmp_path, 1 << 62)
