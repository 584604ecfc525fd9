"""Versions made by hand, and real cells of them, for the tests of this folder."""

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec

from kythera.distribute.blobs import Blobs
from kythera.ground.processes import Child, child, read_some
from kythera.ground.sockets import close_all
from kythera.model.limits import Limits
from kythera.model.platform import Isolation
from kythera.model.records import Asset, Assets, Module, Version
from kythera.node.isolation import asked
from kythera.run.assets import materialise
from kythera.run.config import CellSettings, cell_config, schema
from kythera.run.sandbox import (
    ASSETS,
    EGRESS_SOCKET,
    TAIL_SOCKET,
    Confined,
    ShutIn,
    confine,
    memory_mib,
)
from kythera.run.trial import Trial, TrialSettings, try_version
from kythera.run.workerd import find_workerd, workerd_argv
from tests.run.pipes import Pipe

START_S_MAX = 10.0
ACCOUNT = "0" * 32
VERSION_ID = "01234567-89ab-4def-8123-456789abcdef"
CREATED_ON = "2026-11-23T00:00:00.000000Z"


schema()  # keeps its files open for good: not a leak of the test that needs it first


def open_secret(name: str, sealed: str) -> str:
    """Unseal as tests seal: the name stands before the text, so that a mix-up shows."""
    assert sealed.startswith(f"{name}:")
    return sealed.removeprefix(f"{name}:")


@dataclass
class Workshop:
    """A folder with blobs, versions made of them, and trials and cells of those."""

    folder: Path

    @property
    def blobs(self) -> Blobs:
        """Return the content-addressed files."""
        return Blobs(self.folder / "blobs")

    def module(self, name: str, content: str | bytes, kind: str = "esm") -> Module:
        """Return one module."""
        raw = content.encode() if isinstance(content, str) else content
        return Module(name=name, type=kind, digest=self.blobs.put(raw), size=len(raw))

    def version(self, *modules: Module, **fields: Any) -> Version:
        """Return a version whose main module is the first one, unless told otherwise."""
        if modules and "body_part" not in fields:
            fields.setdefault("main_module", modules[0].name)
        return Version(
            account=ACCOUNT,
            worker="hello",
            id=VERSION_ID,
            number=1,
            created_on=CREATED_ON,
            modules=modules,
            **fields,
        )

    def worker(self, code: str, *more: Module, **fields: Any) -> Version:
        """Return a version of one ES module that has a fetch handler."""
        fields.setdefault("handlers", ("fetch",))
        return self.version(self.module("index.js", code), *more, **fields)

    def script(self, code: str, *more: Module, **fields: Any) -> Version:
        """Return a version in service-worker format."""
        module = self.module("worker.js", code, "service_worker")
        return self.version(module, *more, body_part="worker.js", handlers=("fetch",), **fields)

    def assets(
        self, files: Mapping[str, bytes], types: Mapping[str, str] | None = None, **config: Any
    ) -> Assets:
        """Return a version's assets: contents by path, types by path, wrangler's settings."""
        manifest = [
            Asset(
                path=path,
                digest=self.blobs.put(content),
                size=len(content),
                content_type=(types or {}).get(path, ""),
            )
            for path, content in files.items()
        ]
        return Assets(manifest=self.blobs.put(msgspec.json.encode(manifest)), config=config)

    def tree(self, version: Version) -> Path | None:
        """Lay a version's assets out."""
        if version.assets is None:
            return None
        listed = msgspec.json.decode(self.blobs.read(version.assets.manifest), type=list[Asset])
        return materialise(listed, self.blobs.path, self.folder / "assets")

    def config(self, version: Version, **settings: Any) -> bytes:
        """Return the configuration of a version's cell."""
        settings.setdefault("assets_dir", self.tree(version))
        return cell_config(
            version,
            read_blob=self.blobs.read,
            open_secret=open_secret,
            settings=CellSettings(**settings),
        )

    async def trial(self, version: Version, limits: Limits | None = None, **more: Any) -> Trial:
        """Start a version for real, with generous limits unless told otherwise."""
        generous = Limits(startup_ms_max=10_000, startup_deadline_ms=20_000)
        return await try_version(
            version,
            read_blob=self.blobs.read,
            open_secret=open_secret,
            settings=TrialSettings(
                workerd=find_workerd(),
                limits=limits or generous,
                isolation=more.pop("isolation", host_isolation()),
                **more,
            ),
        )

    @asynccontextmanager
    async def cell(self, version: Version, **settings: Any) -> AsyncIterator["RunningCell"]:
        """Run a version's cell for the length of the block; it listens when the block begins."""
        path = self.folder / "cell.sock"
        with (
            Pipe() as control,
            listening_on(path) as listening,
            listening_on(self.folder / "pulse.sock") as pulse,
        ):
            descriptors = [listening.fileno(), pulse.fileno(), control.write_end]
            shut_in = self._shut_in(version, descriptors, settings)
            config = self.config(version, **settings)
            async with child(
                shut_in.argv,
                pass_fds=descriptors,
                stdin=config,
                rlimits=shut_in.rlimits,
                uid=shut_in.uid,
                stage=shut_in.stage,
            ) as process:
                close_all(descriptors[3:])
                control.close_write_end()
                cell = RunningCell(process, path)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cell.listen)
                    try:
                        with anyio.fail_after(START_S_MAX):
                            said = b""
                            while b'"listen"' not in said and (more := await control.read()):
                                said += more
                        process.look_inside(said)
                        assert b'"listen"' in said, f"does not start: {cell.said!r}"
                        yield cell
                    finally:
                        tasks.cancel_scope.cancel()

    def _shut_in(
        self, version: Version, descriptors: list[int], settings: dict[str, Any]
    ) -> Confined:
        """Return a cell's command; what it sees elsewhere than it is changes in `settings`."""
        isolation = settings.pop("isolation", host_isolation())
        listening, pulse, control = descriptors
        folders: dict[Path, Path] = {}
        if isolation.bubblewrap:
            descriptors.append(os.dup(control))
            if isolation.seccomp:
                descriptors.append(os.open(isolation.seccomp, os.O_RDONLY | os.O_CLOEXEC))
            if (tail := settings.get("tail_url_socket")) is not None:
                folders[TAIL_SOCKET] = tail
                tail.touch()  # where nobody listens, there is at least a name
                tail.chmod(0o666)  # as the keeper does; what is above is private
                settings["tail_url_socket"] = TAIL_SOCKET
            if (door := settings.get("egress")) is not None:
                folders[EGRESS_SOCKET] = door.socket
                settings["egress"] = replace(door, socket=EGRESS_SOCKET)
            if (tree := self.tree(version)) is not None:
                folders[ASSETS] = tree
                settings["assets_dir"] = ASSETS
        numbers = {"http": str(listening), "pulse": str(pulse)}
        cell = ShutIn(
            program=find_workerd(),
            arguments=workerd_argv(numbers, str(control)),
            account=version.account,
            memory_mib=memory_mib(version, Limits()),
            folders=folders,
        )
        info = str(descriptors[3]) if isolation.bubblewrap else ""
        return confine(cell, isolation, Limits(), info=info, seccomp=str(descriptors[-1]))


@cache
def host_isolation() -> Isolation:
    """Return what this host can do; found out once, by a program as the keeper does it."""
    filter_ = Path(tempfile.mkdtemp(prefix="kythera-tests-")) / "seccomp.bpf"
    atexit.register(shutil.rmtree, filter_.parent)
    return asked(filter_, Limits())


def listening_on(path: Path) -> socket.socket:
    """Return a socket that listens there, whatever was there before."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


class RunningCell:
    """A cell that listens: ask it, and read what it says."""

    def __init__(self, process: Child, path: Path) -> None:
        self.process = process
        self.path = path
        self.said = ""

    async def listen(self) -> None:
        """Collect stdout and stderr for ever."""
        async with anyio.create_task_group() as tasks:
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                tasks.start_soon(self._collect, stream)

    async def _collect(self, stream: int) -> None:
        while chunk := await read_some(stream):
            self.said += chunk.decode(errors="replace")

    async def says(self, text: str) -> str:
        """Wait until the cell has printed a text; return all it has said."""
        with anyio.fail_after(START_S_MAX):
            while text not in self.said:
                await anyio.sleep(0.01)
        return self.said

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open an HTTP client to the cell."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://hello.localhost", timeout=START_S_MAX
        ) as client:
            client.headers.clear()
            yield client

    async def get(self, path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
        """Ask once; header names are given with underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client() as client:
            return await client.request(method, path, headers=named)


def is_uncaught(response: httpx.Response) -> bool:
    """Tell workerd's own answer for an uncaught exception, by what the front door goes by."""
    known = (response.status_code, response.text, "content-type" in response.headers)
    return known == (500, "Internal Server Error", False)
