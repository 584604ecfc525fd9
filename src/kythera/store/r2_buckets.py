"""Which buckets there are, and since when: told by the agent, who reads the records, in a file of this
machine.

A bucket is made in the engine when it is first written to. One that is not in the file is none, even
where a cell still holds a pass to it.
"""

from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec

from kythera.ground.files import write_private

TOLD_MS = 5_000
"""How long a request waits for a bucket that was made just now, and that the agent has not seen."""
POLL_S = 0.02


def tell(path: Path, buckets: Mapping[str, str]) -> None:
    """Write which buckets there are (name → moment it was made), if that has changed."""
    data = msgspec.json.encode(dict(sorted(buckets.items())))
    if not path.exists() or path.read_bytes() != data:
        write_private(path, data)


def told(path: Path) -> dict[str, str]:
    """Return which buckets there are."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}


async def wait_told(path: Path, bucket: str) -> bool:
    """Tell whether there is such a bucket; wait a little for one that may be new."""
    with anyio.move_on_after(TOLD_MS / 1000):
        while bucket not in told(path):
            await anyio.sleep(POLL_S)
        return True
    return False


async def wait_gone(path: Path, bucket: str) -> bool:
    """Tell whether a bucket that was deleted is no longer told of; wait a little until it is so."""
    with anyio.move_on_after(TOLD_MS / 1000):
        while bucket in told(path):
            await anyio.sleep(POLL_S)
        return True
    return False
