"""Which buckets there are: told by the agent, who reads the records, in a file of this machine.

A bucket is made in the engine when it is first written to. One that is not in the file is none, even
where a cell still holds a pass to it.
"""

from collections.abc import Iterable
from pathlib import Path

import anyio
import msgspec

from kythera.ground.files import write_private

TOLD_MS = 5_000
"""How long a request waits for a bucket that was made just now, and that the agent has not seen."""
POLL_S = 0.02


def tell(path: Path, buckets: Iterable[str]) -> None:
    """Write which buckets there are, if that has changed."""
    data = msgspec.json.encode(sorted(buckets))
    if not path.exists() or path.read_bytes() != data:
        write_private(path, data)


def told(path: Path) -> frozenset[str]:
    """Return which buckets there are."""
    try:
        return frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (FileNotFoundError, msgspec.MsgspecError):
        return frozenset()


async def wait_told(path: Path, bucket: str) -> bool:
    """Tell whether there is such a bucket; wait a little for one that may be new."""
    with anyio.move_on_after(TOLD_MS / 1000):
        while bucket not in told(path):
            await anyio.sleep(POLL_S)
        return True
    return False
