"""Whether the engine of R2 keeps what it is given: tried, by giving it something."""

import anyio

from kythera.store.s3 import S3, S3Failure

PROBE_BUCKET = "kythera.probe"
PROBE_S = 0.05


async def wait_until_up(s3: S3, start_ms: int) -> None:
    """Return once it has kept something, or after `start_ms`."""
    with anyio.move_on_after(start_ms / 1000):
        while True:
            try:
                await _probe(s3)
                return
            except S3Failure:
                await anyio.sleep(PROBE_S)


async def _probe(s3: S3) -> None:
    try:
        await s3.whole("PUT", PROBE_BUCKET)
    except S3Failure as failure:
        if failure.status != 409:
            raise
    await s3.whole("PUT", f"{PROBE_BUCKET}/probe", body=b"probe")
