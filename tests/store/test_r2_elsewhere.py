"""What another endpoint for R2's objects must do, tried on endpoints in memory that do it, or almost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from kythera.ground.chance import SystemChance
from kythera.model.errors import SetupError
from kythera.store.r2_elsewhere import Key, endpoint_of, read_key, refuse_unfit
from kythera.store.s3 import S3Failure

pytestmark = pytest.mark.anyio
KEY = Key("id", "secret", bucket_prefix="mine-")


class FakeEndpoint:
    """S3 in a dictionary; `flaws` are what it does not hold to."""

    def __init__(self, *flaws: str) -> None:
        self._flaws = flaws
        self.objects: dict[str, bytes] = {}
        self.paths: set[str] = set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path, body = request.path, await request.read()
        self.paths.add(path)
        if path.count("/") == 1:
            return web.Response(status=403 if "no buckets" in self._flaws else 200)
        etag = f'"{self.objects[path].hex():0>32}"' if path in self.objects else ""
        match request.method:
            case "HEAD" if etag:
                return web.Response(headers={"ETag": etag})
            case "DELETE":
                self.objects.pop(path, None)
                return web.Response(status=204)
            case "PUT":
                return await self._put(request, path, body, etag)
        return web.Response(status=404)

    async def _put(
        self, request: web.BaseRequest, path: str, body: bytes, etag: str
    ) -> web.StreamResponse:
        create, match = "If-None-Match" in request.headers, request.headers.get("If-Match")
        if create and "If-None-Match" not in self._flaws:
            if etag:
                return web.Response(status=412)
            if "atomic" in self._flaws:
                await anyio.sleep(0.02)  # looked, and writes later: others have looked meanwhile
        if match is not None and "If-Match" not in self._flaws and match != etag:
            return web.Response(status=412)
        self.objects[path] = body
        return web.Response()


@asynccontextmanager
async def served(fake: FakeEndpoint) -> AsyncIterator[str]:
    """Serve on a port of its own; yield the URL."""
    runner = web.ServerRunner(web.Server(fake.answer, access_log=None))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def tried(fake: FakeEndpoint) -> None:
    """Try an endpoint."""
    async with served(fake) as url:
        await refuse_unfit(endpoint_of(url, KEY), SystemChance(), 5_000)


async def test_an_endpoint_that_holds_to_its_conditions_is_taken() -> None:
    """Goal: nothing is said, nothing is left there, and the buckets' prefix is used."""
    fake = FakeEndpoint()
    await tried(fake)
    assert fake.objects == {}
    assert all(path.startswith("/mine-kythera-probe") for path in fake.paths)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("If-None-Match", "8 were told that they did"),
        ("atomic", "8 were told that they did"),
        ("If-Match", "does not hold to If-Match"),
    ],
)
async def test_an_endpoint_that_does_not_is_refused(flaw: str, said: str) -> None:
    """Goal: conditions that are ignored, or looked at and then forgotten; each in words."""
    with pytest.raises(SetupError, match=said):
        await tried(FakeEndpoint(flaw))


async def test_one_that_is_not_there_or_says_no_is_no_verdict() -> None:
    """Goal: who asks decides what silence means, and a key that may do nothing."""
    with pytest.raises(S3Failure, match="403"):
        await tried(FakeEndpoint("no buckets"))
    with pytest.raises(S3Failure):
        await refuse_unfit(endpoint_of("http://127.0.0.1:1", KEY), SystemChance(), 1_000)


@pytest.mark.parametrize("url", ["s3.example.org", "ftp://a", "https://a/bucket", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """Goal: before anything is asked."""
    with pytest.raises(SetupError, match="is no address"):
        endpoint_of(url, KEY)


def test_a_key_is_read_when_it_is_one_and_nobody_elses(tmp_path: Path) -> None:
    """Goal: each fault of the file is named, its content never."""
    file = tmp_path / "key"
    with pytest.raises(SetupError, match="No such file"):
        read_key(file)
    file.write_text('{"access_key_id": "a", "secret_access_key": "b", "region": "eu"}')
    file.chmod(0o644)
    with pytest.raises(SetupError, match="others may read"):
        read_key(file)
    file.chmod(0o600)
    assert read_key(file) == Key("a", "b", "eu")
    file.write_text('{"access_key_id": "a", "secret": "hidden"}')
    with pytest.raises(SetupError, match="is no key") as error:
        read_key(file)
    assert "hidden" not in str(error.value)
