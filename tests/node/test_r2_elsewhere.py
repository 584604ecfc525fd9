"""R2's objects kept by another endpoint: a SeaweedFS of the test, which the platform did not start."""

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kythera.ground.chance import SystemChance
from kythera.ground.journal import Journal
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.node.r2_elsewhere import Elsewhere, Verdict, settled
from kythera.store.r2_elsewhere import ANSWER_MS_MAX, verdict
from kythera.store.r2_engine import EngineFiles, command, program
from tests.node.r2_running import ENGINE, STORE, give_bucket, pids
from tests.platforms import COMMAND, RunningPlatform, clean_environment, running
from tests.processes import wait_until

START_S_MAX = 30.0


class Way:
    """A TCP port that leads to a unix socket: engines of the platform's own kind have no other door."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._joined, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_unix_connection(self._path)
            await asyncio.gather(_copy(reader, outer), _copy(inner, writer))
        except OSError:
            writer.close()

    def close(self) -> None:
        """End it, and all that passes."""

        async def end() -> None:
            self._server.close()
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


def _answers(url: str, key: Path) -> bool:
    return not verdict(url, key, SystemChance(), ANSWER_MS_MAX).silent


@contextmanager
def endpoint(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a SeaweedFS; yield its URL and a file with its key."""
    layout = Layout(folder)
    files = EngineFiles(layout)
    for place in (layout.run, layout.data):
        place.mkdir(parents=True)
    files.prepare(SystemChance())
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None, "make setup installs it"
    known = files.endpoint()
    key = folder / "key.json"
    key.touch(mode=0o600)
    key.write_text(
        json.dumps({"access_key_id": known.access_key, "secret_access_key": known.secret_key})
    )
    with subprocess.Popen(command(files, bubblewrap, program())) as engine:
        try:
            wait_until(files.socket.exists, "the endpoint listens", deadline_s=START_S_MAX)
            way = Way(files.socket)
            try:
                # It listens some seconds before it answers.
                wait_until(lambda: _answers(way.url, key), "it answers", deadline_s=START_S_MAX)
                yield way.url, key
            finally:
                way.close()
        finally:
            engine.kill()


def refused(state: Path) -> str:
    """Start a platform that must not start; return why it does not."""
    argv = [*COMMAND, "up", "--state", str(state), "--http", "127.0.0.1:0", "--api", "127.0.0.1:0"]
    done = subprocess.run(
        argv,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


def keep(platform: RunningPlatform, key: str, body: bytes) -> None:
    """Put an object by the Worker."""
    assert platform.get("cases", f"/{key}", method="PUT", content=body).status_code == 200


@pytest.mark.real
def test_objects_live_at_the_endpoint_and_everybody_is_told(tmp_path: Path) -> None:
    """Goal: no engine here; conditions hold; it is remembered, in a backup too; the backup says so, and
    what is restored does not start with empty buckets."""
    state, again = tmp_path / "state", tmp_path / "again"
    with endpoint(tmp_path / "elsewhere") as (url, key):
        named = ("--r2-endpoint", url, "--r2-key", str(key))
        with running(state, *named) as platform:
            give_bucket(platform, "cases", "far")
            keep(platform, "one", os.urandom(9_000_000))
            assert pids(platform, STORE)
            assert not pids(platform, ENGINE)
            done = platform.kythera("backup", "create", str(tmp_path / "all"))
            assert f"R2's objects are not in it: they are at {url}" in done.stdout, done.stderr
        with running(state) as platform:
            assert len(platform.get("cases", "/one").content) == 9_000_000
        restore = [*COMMAND, "backup", "restore", "--state", str(again), str(tmp_path / "all")]
        restored = subprocess.run(
            restore, env=clean_environment(), capture_output=True, text=True, timeout=60, check=True
        )
        assert f"--r2-endpoint {url} --r2-key FILE" in restored.stdout
        assert "nobody has said by which key" in refused(again)


class Trials:
    """A fake: endpoints as they are told to be, and which were tried."""

    def __init__(self, **told: str) -> None:
        self._told = told
        self.tried: list[str] = []

    def __call__(self, url: str, key: str) -> Verdict:
        """Tell what was told."""
        self.tried.append(url)
        return Verdict(url, **self._told)


def settle(folder: Path, url: str = "", key: str = "", trials: Trials | None = None) -> Elsewhere:
    """Settle it for a start after one that knew the key `old`, if any endpoint is known."""
    layout = Layout(folder)
    folder.mkdir(exist_ok=True)
    before = Elsewhere(key="old" if (layout.data / "r2" / "elsewhere.json").exists() else "")
    journal = Journal("test", json_lines=True)
    return settled(layout, Elsewhere(url, key), before, journal, trials or Trials())


@pytest.mark.parametrize(
    ("url", "key", "told", "said"),
    [
        ("", "k", {}, "--r2-key is the key of an endpoint"),
        ("https://a", "", {}, "nobody has said by which key"),
        ("https://a", "k", {"refused": "it races", "remedy": "Another."}, "it races"),
        ("https://a", "k", {"silent": "nobody there"}, "cannot be R2's endpoint: nobody there"),
    ],
)
def test_what_cannot_be_named_is_refused(
    tmp_path: Path, url: str, key: str, told: dict[str, str], said: str
) -> None:
    """Goal: in words; and nothing is remembered of it."""
    with pytest.raises(SetupError, match=said):
        settle(tmp_path, url, key, Trials(**told))
    assert settle(tmp_path) == Elsewhere()


def test_a_known_endpoint_is_tried_again_and_may_be_away(tmp_path: Path) -> None:
    """Goal: named once; silence keeps nobody from starting, a broken promise does; `own` ends it."""
    assert settle(tmp_path, "https://a", "new") == Elsewhere("https://a", "new")
    trials = Trials(silent="away")
    assert settle(tmp_path, trials=trials) == Elsewhere("https://a", "old")
    assert trials.tried == ["https://a"]
    with pytest.raises(SetupError, match="races now"):
        settle(tmp_path, trials=Trials(refused="races now", remedy="Another."))
    with pytest.raises(SetupError, match="cannot be"):
        settle(tmp_path, "https://b", "new", Trials(silent="away"))
    assert settle(tmp_path, "own") == Elsewhere() == settle(tmp_path)


def test_objects_of_the_own_engine_are_not_hidden(tmp_path: Path) -> None:
    """Goal: an endpoint is not named over them."""
    (tmp_path / "data" / "r2" / "engine").mkdir(parents=True)
    with pytest.raises(SetupError, match="nobody would find them"):
        settle(tmp_path, "https://a", "k")
