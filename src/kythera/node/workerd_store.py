"""A store that is a workerd of its own: started through the keeper, shut in, watched, replaced.

Promises: its sockets are the keeper's, so that what is asked waits while it is down; it is started
when the records name something to keep, and started anew (its requests end first, new ones wait)
when they make another configuration of it; a process of a crashed agent is adopted; one that does
not answer is killed and replaced. It writes one folder alone, `layout.data/<store>`. What it has
accepted and not begun to read when it is told to end is cut, undone: two processes never share the folder.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
import structlog

from kythera.ground.layout import Layout
from kythera.ground.passes import store_key
from kythera.model.catalog import Catalog
from kythera.model.platform import Platform
from kythera.node.engines import Engine, EngineOrder
from kythera.node.keeper_client import Exited, HeldProcess, KeeperClient
from kythera.node.store_use import StoreUse, Tell, nobody
from kythera.run.config import PULSE
from kythera.run.sandbox import Confined, ShutIn, confine, uid_of
from kythera.run.store_config import DATA_FOLDER, StoreView
from kythera.run.workerd import workerd_argv

SIGTERM, SIGKILL = 15, 9
STOP_ORDER = 2
"""After the cells, which may still have something to store."""
NO_HTTP = b"?\r\n\r\n"
"""workerd answers 400 by itself; no JavaScript runs."""
CONFIG_TAG = "config"
ENVIRONMENT = {
    "TZ": "UTC",
    "LANG": "C.UTF-8",
    "GLIBC_TUNABLES": "glibc.pthread.rseq=0",  # as a cell's
}
Build = Callable[[Catalog, StoreView], bytes | None]
"""From the records to a configuration (`run.store_config`); None: there is nothing to keep."""


@dataclass(frozen=True)
class StoreHost:
    """What each store of a machine is run with."""

    layout: Layout
    platform: Platform
    keeper: KeeperClient
    workerd: Path
    started: Callable[[str], None] = lambda _: None
    """Told its name when one was started (its output wants reading)."""
    tell: Tell = nobody
    """Told what a store has counted, at each look."""


@dataclass(frozen=True)
class StoreNeeds:
    """What one store has beside its folder."""

    sees: Mapping[Path, Path] = field(default_factory=dict)
    """Where it sees them → where they are: sockets and folders that it may reach."""
    lasts: Build | None = None
    """What one process keeps from its start to its end, where that is not its whole configuration: the
    rest it is told by somebody else when it changes."""
    counts: bool = False
    """Whether its door tells, to a pass without a resource, what it has counted (`run.store_counts`)."""


class WorkerdStore:
    """Keeps one such store alive: a `node.stores.StorePart`."""

    def __init__(
        self, name: str, host: StoreHost, build: Build, needs: StoreNeeds | None = None
    ) -> None:
        self.name = name
        self._host = host
        self._build = build
        self._needs = needs or StoreNeeds()
        self._process = f"store/{name}"
        """The keeper's name of the process, and of its socket."""
        self._engine = Engine(self._process, host.keeper, self._prepare, host.started)
        self._config: bytes | None = None
        self._lasting: bytes | None = None
        self._outdated = 0
        """The process that could not be told of a change."""
        self._changed = anyio.Event()
        self._exited = anyio.Event()
        self._heard_at = 0.0
        look_ms = host.platform.limits.store_look_ms
        self._use = StoreUse(name, host.layout, look_ms, host.tell)
        self._journal = structlog.get_logger("stores")

    @property
    def folder(self) -> Path:
        """Where it keeps what it is given."""
        return self._host.layout.data / self.name

    def note(self, event: Exited) -> None:
        """Take the keeper's word that a process has ended."""
        if event.name == self._process:
            self._exited.set()
        self._engine.note(event)

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records; a new configuration takes the place of the old one soon."""
        view = self._view()
        self._config = self._build(catalog, view)
        lasting = self._config if self._needs.lasts is None else self._needs.lasts(catalog, view)
        if lasting != self._lasting:
            self._lasting = lasting
            self._look_soon()

    def replace(self, pid: int) -> None:
        """Have a process of the newest configuration take the place of this one."""
        self._outdated = pid
        self._look_soon()

    def _look_soon(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def run(self) -> None:
        """Keep it alive, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._engine.run)
            tasks.start_soon(self._watch)

    # -- starting it -----------------------------------------------------------------------------

    def _view(self) -> StoreView:
        host = self._host
        return StoreView(
            disk=DATA_FOLDER if host.platform.isolation.bubblewrap else self.folder.absolute(),
            key=store_key(host.layout.store_key),
            limits=msgspec.to_builtins(host.platform.limits),
        )

    async def _prepare(self) -> EngineOrder:
        while self._config is None:
            await self._changed.wait()
        self._make_folder()
        pulse = f"store-pulse/{self.name}"
        await self._host.keeper.listen(pulse, self._host.layout.store_pulse(self.name))
        shut = self._confined({"http": self._process, PULSE: pulse})
        return EngineOrder(
            shut.argv,
            ENVIRONMENT,
            SIGTERM,
            STOP_ORDER,
            stdin=self._config,
            control=True,
            tags={CONFIG_TAG: _mark(self._lasting)},
            uid=shut.uid,
            stage=shut.stage,
            rlimits=shut.rlimits,
        )

    def _confined(self, sockets: Mapping[str, str]) -> Confined:
        platform = self._host.platform
        numbers = {name: f"{{socket:{held}}}" for name, held in sockets.items()}
        shut_in = ShutIn(
            program=self._host.workerd,
            arguments=workerd_argv(numbers, "{control}"),
            account=self._process,
            memory_mib=0,
            folders=self._needs.sees,
            writable={DATA_FOLDER: self.folder.absolute()},
            file_bytes_max=platform.limits.store_file_bytes_max,
        )
        return confine(shut_in, platform.isolation, platform.limits)

    def _make_folder(self) -> None:
        """Have a folder that is the process's own, also after a restore by somebody else."""
        for folder in (self._host.layout.data, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._host.platform.isolation.uids:
            return
        uid = uid_of(self._process)
        if self.folder.stat().st_uid != uid:
            for place, _, files in os.walk(self.folder, topdown=False):
                for path in (*(Path(place, name) for name in files), Path(place)):
                    os.chown(path, uid, uid, follow_symlinks=False)

    # -- watching it -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        look_s = self._host.platform.limits.store_look_ms / 1000
        while True:
            changed = self._changed
            held = self._host.keeper.processes.get(self._process)
            if held is None:
                self._use.show("down")
            else:
                await self._look(held)
            with anyio.move_on_after(look_s):
                await changed.wait()

    async def _look(self, held: HeldProcess) -> None:
        if self._use.meet(held.pid):
            self._heard_at = anyio.current_time()
        if held.pid == self._outdated or held.tags.get(CONFIG_TAG) != _mark(self._lasting):
            await self._end(held, "store_changes", SIGTERM)
        elif await self._answers():
            self._heard_at = anyio.current_time()
            if self._needs.counts:
                await self._use.hear()
            self._use.show("up")
        elif self._silent_ms() > self._host.platform.limits.store_silent_ms_max:
            await self._end(held, "store_hangs", SIGKILL)
        else:
            self._use.show("silent")

    def _silent_ms(self) -> float:
        return (anyio.current_time() - self._heard_at) * 1000

    async def _end(self, held: HeldProcess, why: str, signum: int) -> None:
        """End a process; what it has begun it may finish, within a deadline."""
        self._journal.info(why, store=self.name, pid=held.pid)
        self._exited = anyio.Event()
        self._engine.replacing = True
        keeper, limits = self._host.keeper, self._host.platform.limits
        await keeper.signal(self._process, signum)
        with anyio.move_on_after(limits.store_drain_ms / 1000):
            await self._exited.wait()
        if not self._exited.is_set():
            await keeper.signal(self._process, SIGKILL)
            with anyio.move_on_after(limits.store_drain_ms / 1000):
                await self._exited.wait()

    async def _answers(self) -> bool:
        """Tell whether its event loop turns."""
        try:
            with anyio.fail_after(self._host.platform.limits.store_look_ms / 1000):
                path = self._host.layout.store_pulse(self.name)
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(NO_HTTP)
                    return bool(await stream.receive(64))
        except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False


def _mark(config: bytes | None) -> str:
    return "" if config is None else hashlib.sha256(config).hexdigest()[:16]
