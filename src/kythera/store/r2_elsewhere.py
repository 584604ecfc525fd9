"""R2's objects in another S3 endpoint than the engine of this machine: how it is named, and what it must do.

R2 promises that of writers who race under one condition one wins. That is the endpoint's to keep
(`If-None-Match: *`, `If-Match`), so it is tried before anything is kept there. Refuses (SetupError, with a
remedy): an endpoint that lets two writers create one object, a file of keys that others may read.

As a program (`python -m kythera.store.r2_elsewhere URL FILE`) it prints one `Verdict`: who starts a platform
loads nothing that speaks S3.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
from msgspec import Struct

from kythera.ground.chance import Chance, SystemChance
from kythera.model.errors import SetupError
from kythera.store.s3 import S3, S3Failure, open_s3
from kythera.store.s3_endpoint import REGION, Endpoint

FIELDS = '{"access_key_id": "…", "secret_access_key": "…"}, and maybe "region" and "bucket_prefix"'
PROBE_BUCKET = "kythera-probe"
RACERS = 8
ANSWER_MS_MAX = 10_000
NOT_OTHERS = 0o077


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator's file holds, as JSON."""

    access_key_id: str
    secret_access_key: str
    region: str = REGION
    bucket_prefix: str = ""
    """Before the name of each bucket: an endpoint's names may be shared with others."""


class Verdict(Struct, frozen=True):
    """What the program prints."""

    url: str = ""
    prefix: str = ""
    """Which endpoint it is;"""
    refused: str = ""
    remedy: str = ""
    """why it cannot be, and what to do;"""
    silent: str = ""
    """that it did not answer, or not as it should."""


def read_key(path: Path) -> Key:
    """Read a file of keys. Raises SetupError."""
    try:
        if path.stat().st_mode & NOT_OTHERS:
            raise SetupError(
                f"others may read {path}, the key of R2's endpoint.", remedy=f"chmod 600 {path}"
            )
        return msgspec.json.decode(path.read_bytes(), type=Key)
    except OSError as error:
        raise SetupError(
            f"cannot read {path}, the key of R2's endpoint: {error.strerror}.",
            remedy=f"Give --r2-key a file (0600) with {FIELDS}.",
        ) from None
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{path} is no key of an S3 endpoint: {error}.", remedy=f"It has to hold {FIELDS}."
        ) from None


def endpoint_of(url: str, key: Key) -> Endpoint:
    """Return the endpoint. Raises SetupError for what is no address of one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise SetupError(
            f"--r2-endpoint {url!r} is no address of an S3 endpoint.",
            remedy="Give scheme and host alone: --r2-endpoint https://s3.example.org",
        )
    return Endpoint(
        url=url.rstrip("/"),
        access_key=key.access_key_id,
        secret_key=key.secret_access_key,
        region=key.region,
        prefix=key.bucket_prefix,
    )


async def refuse_unfit(endpoint: Endpoint, chance: Chance, silent_ms_max: int) -> None:
    """Try what R2 asks of an endpoint. Raises SetupError; S3Failure when it does not answer, or says no
    to what everybody may who has a key of it."""
    async with open_s3(endpoint, silent_ms_max) as s3:
        await _have_bucket(s3)
        path = f"{PROBE_BUCKET}/{chance.hex(32)}"
        try:
            await _race(s3, path, endpoint.url)
            await _overwrite(s3, path, endpoint.url)
        finally:
            with anyio.CancelScope(shield=True):
                await _forget(s3, path)


async def _have_bucket(s3: S3) -> None:
    try:
        await s3.whole("PUT", PROBE_BUCKET)
    except S3Failure as failure:
        if failure.status != 409:  # it is there
            raise


async def _race(s3: S3, path: str, url: str) -> None:
    """Have many create one object at once: one may."""
    made: list[int] = []

    failed: list[S3Failure] = []

    async def create(number: int) -> None:
        try:
            if await _written(s3, path, {"If-None-Match": "*"}, b"%d" % number):
                made.append(number)
        except S3Failure as failure:
            failed.append(failure)

    async with anyio.create_task_group() as tasks:
        for number in range(RACERS):
            tasks.start_soon(create, number)
    if failed:
        raise failed[0]
    if len(made) != 1 or await _written(s3, path, {"If-None-Match": "*"}, b"late"):
        raise SetupError(
            f"{url} does not hold to If-None-Match: of {RACERS} writers who create one object at"
            f" once {len(made)} were told that they did, and R2 promises that one is.",
            remedy="Take an endpoint with conditional writes, such as SeaweedFS, or leave"
            " --r2-endpoint out: R2's objects are then kept on this machine.",
        )


async def _overwrite(s3: S3, path: str, url: str) -> None:
    """Overwrite under a condition that does not hold, and under one that does."""
    headers, _ = await s3.whole("HEAD", path)
    wrong = await _written(s3, path, {"If-Match": '"00000000000000000000000000000000"'}, b"wrong")
    right = await _written(s3, path, {"If-Match": headers.get("ETag", "")}, b"right")
    if wrong or not right:
        raise SetupError(
            f"{url} does not hold to If-Match when an object is overwritten.",
            remedy="Take an endpoint with conditional writes, such as SeaweedFS, or leave"
            " --r2-endpoint out: R2's objects are then kept on this machine.",
        )


async def _written(s3: S3, path: str, condition: dict[str, str], body: bytes) -> bool:
    try:
        await s3.whole("PUT", path, None, condition, body)
    except S3Failure as failure:
        if failure.status in (409, 412):
            return False
        raise
    return True


async def _forget(s3: S3, path: str) -> None:
    for what in (path, PROBE_BUCKET):
        try:
            await s3.whole("DELETE", what)
        except S3Failure:
            return  # another machine may be trying the same now


def verdict(url: str, file: Path, chance: Chance, silent_ms_max: int) -> Verdict:
    """Say whether an endpoint is fit."""
    try:
        endpoint = endpoint_of(url, read_key(file))
        found = Verdict(endpoint.url, endpoint.prefix)
        anyio.run(refuse_unfit, endpoint, chance, silent_ms_max)
    except SetupError as error:
        return Verdict(url, refused=error.message, remedy=error.remedy)
    except S3Failure as failure:
        return msgspec.structs.replace(found, silent=failure.message)
    return found


def main() -> int:
    """Print the verdict of the endpoint that is named."""
    url, file = sys.argv[1:]
    told = verdict(url, Path(file), SystemChance(), ANSWER_MS_MAX)
    sys.stdout.write(msgspec.json.encode(told).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
