"""Object cells: for each worker with Durable Objects that live here one process, and never two.

A task for each worker compares what the records ask for with what the keeper holds, and does the
next step. Promises: the process has one name, which the keeper gives away once, so that no two ever
have one storage, whatever becomes of this agent; its socket is the keeper's, so that calls wait while
it is replaced. Before that it lets nobody in any more and those inside end, for `objects_leave_ms` at
most. It runs as long as its worker is deployed: nobody else would hear an alarm.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from kythera.ground.clock import iso
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError
from kythera.model.objects import OBJECTS, ObjectClass, classes_of, newest
from kythera.model.platform import Platform
from kythera.model.records import Version
from kythera.model.workflows import Workflow, workflows_here, workflows_of
from kythera.node.keeper_client import Exited, HeldProcess, KeeperClient, Ready
from kythera.node.last_words import tell_watchers
from kythera.node.mind import CELL_STOP_ORDER, Mind
from kythera.node.object_doors import here, located, ways_to_moved
from kythera.node.object_files import make_storage, note_writer, remove_deleted, take_over
from kythera.node.object_status import Lives, State, object_cell
from kythera.node.object_turns import ObjectTurns
from kythera.node.store_use import Tell, nobody
from kythera.node.workerd_loop import Workerds
from kythera.route.pages import CANNOT_START
from kythera.run.cell import CellName, Limited, WorkerKey
from kythera.run.config import PULSE
from kythera.run.object_cells import Asked, Step, key_of, name_of, next_step
from kythera.run.objects import WATCH, ObjectHome, doors_of
from kythera.run.refusal import answer_waiting
from kythera.run.sandbox import memory_mib, uid_of
from kythera.run.store_counts import StoreCounts, UsesByProcess, WorkerUse
from kythera.run.targets import is_watched
from kythera.run.turns import cpu_ms_max
from kythera.run.workflows import keeps_message

SIGTERM, SIGKILL = 15, 9
LOOK_S = 1.0
STORE, WORKFLOWS = "objects", "workflows"
"""Their names among the stores of status."""
LEAVE_LOOK_S = 0.02
ANSWER_BYTES_MAX = 4_096
OUTSIDE_ERRORS = (KytheraError, OSError, ValueError)
"""What may go wrong with the world; anything else is a bug."""


class Inside(msgspec.Struct):
    """What an object cell says of itself."""

    process: str
    """Which process says it: random, and its own."""
    inside: int
    served: int
    leaving: bool
    """It lets nobody in any more."""
    watched: bool = False
    """It hands traces on."""
    workflows: dict[str, int] = {}
    """What its Workflows have done since it began."""


@dataclass
class ObjectCells:
    """All object cells of this machine."""

    layout: Layout
    platform: Platform
    keeper: KeeperClient
    mind: Mind
    workerds: Workerds

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self._catalog = self.mind.catalog
        self._changed: dict[WorkerKey, anyio.Event] = {}
        self._handing_on = anyio.Lock()
        """Held by who starts a process or moves a folder: a class is given to one who takes it once
        nobody has it, and whom it was taken from finds that out before it starts with it again."""
        self._tasks: TaskGroup | None = None
        self._failed: set[WorkerKey] = set()
        """Was started, and has not said yet that it listens."""
        self._tries: dict[WorkerKey, int] = {}
        """Starts in a row that have failed."""
        self._version: dict[WorkerKey, str] = {}
        """Which one runs, as far as this agent has started it."""
        self._watched: dict[WorkerKey, bool] = {}
        """What each process was told last of whether somebody watches."""
        self._lives: dict[WorkerKey, Lives] = {}
        self._stopping: set[WorkerKey] = set()
        """Ends as ordered."""
        self._calm_at: dict[WorkerKey, float] = {}
        """One that ends before then is not started again at once."""
        self._turns = ObjectTurns(self.keeper, self.mind.pulses, self._cpu_ms_max)
        self._uses = {STORE: UsesByProcess(), WORKFLOWS: UsesByProcess()}
        self.tell: Tell = nobody
        """Told what they have served, at each look."""
        self.started: Callable[[str], None] = lambda _: None
        """Told the name of each process that was started (its output wants reading)."""
        self._journal = structlog.get_logger("objects")

    # -- facts ---------------------------------------------------------------------------------

    def records_changed(self, catalog: Catalog) -> None:
        """Look at the records: whose objects live here."""
        self._catalog = catalog
        wanted = {
            (worker.account, worker.name)
            for worker in catalog.workers()
            if self._has(worker.account, worker.name)
        }
        held = {key for name in self.keeper.processes if (key := key_of(name)) is not None}
        for key in (wanted | held) - self._changed.keys():
            self._begin(key)
        self._wake()

    def _classes(self, account: str, worker: str) -> tuple[tuple[str, ObjectClass], ...]:
        return here(self._catalog, newest(self._catalog, account, worker), self.platform.machine)

    def _workflows(self, account: str, worker: str) -> tuple[Workflow, ...]:
        version = newest(self._catalog, account, worker)
        return workflows_here(self._catalog, version, self.platform.machine)

    def _has(self, account: str, worker: str) -> bool:
        return bool(self._classes(account, worker) or self._workflows(account, worker))

    def _wake(self) -> None:
        for event in self._changed.values():
            event.set()

    def note(self, event: Exited | Ready) -> None:
        """Take the keeper's word that a process listens, or has ended."""
        if (key := key_of(event.name)) is None:
            return
        if isinstance(event, Exited):
            self._journal.info("object_cell_exited", cell=event.name, status=event.status)
            self.mind.tasks.start_soon(self.mind.pulses.close, event.name)
            wanted_memory = self.mind.ran_out_of_memory(event.name)
            wanted_memory |= self.mind.groups.close(_cell_name(key), event.name)
            self._note_end(key, event, wanted_memory=wanted_memory)
        else:
            self._failed.discard(key)
            self._tries.pop(key, None)
        if key in self._changed:
            self._changed[key].set()

    def _note_end(self, key: WorkerKey, event: Exited, *, wanted_memory: bool) -> None:
        """Tell of an end that nobody had ordered."""
        version = self._version.pop(key, "")
        watched = self._watched.pop(key, False)
        if key in self._stopping or event.status in (0, -SIGTERM) or self.keeper.stopping.is_set():
            return
        reason = "startFailed" if key in self._failed else "crashed"
        if wanted_memory or event.name in self._turns.ended:
            reason = "exceededMemory" if wanted_memory else "exceededCpu"
            if watched:
                self._tell_watchers(key, version, "memory" if wanted_memory else "cpu")
        self._turns.ended.discard(event.name)
        self._lives.setdefault(key, Lives()).crashes += 1
        now, detail = self.mind.clock.now(), f"object cell ended with {event.status}"
        self.mind.incidents.note(*key, version, reason, now, detail=detail)

    def _tell_watchers(self, key: WorkerKey, version: str, what: Limited) -> None:
        cell, at = CellName(*key, version, 0, observed=True), self.mind.clock.now()
        self.mind.tasks.start_soon(tell_watchers, self.layout.tail_socket, cell, what, at)

    def told(self) -> list[dict[str, Any]]:
        """Return all of them as the status shows them."""
        return [self._told(key) for key in sorted(self._changed)]

    def _told(self, key: WorkerKey) -> dict[str, Any]:
        held = self.keeper.processes.get(name_of(key))
        return object_cell(
            key,
            held,
            self._state(key, held),
            classes=[name for name, _ in self._classes(*key)],
            workflows=[workflow.name for workflow in self._workflows(*key)],
            lives=self._lives.get(key, Lives()),
            watched=self._watched.get(key, False),
        )

    def _state(self, key: WorkerKey, held: HeldProcess | None) -> State:
        if held is not None and key in self._stopping:
            return "stopping"
        if held is not None and held.ready:
            return "up"
        return "failing" if key in self._tries else "starting"

    async def prepare(self, version: Version) -> None:
        """Have the sockets that a cell of this version is shown, before it starts."""
        bindings = located(self._catalog, version).bindings
        for script in sorted(doors_of(bindings, version.worker)):
            if self._has(version.account, script):
                await self._open((version.account, script))

    async def run(self) -> None:
        """Keep them alive, for ever."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for key in self._changed:
                tasks.start_soon(self._keep, key)
            tasks.start_soon(self._turns.run)
            while True:
                await anyio.sleep(LOOK_S)
                self._wake()  # another workerd may have been chosen
                await self._hear()

    async def _hear(self) -> None:
        """Ask all object cells what they have served, and tell."""
        async with anyio.create_task_group() as tasks:
            for name in list(self.keeper.processes):
                if (key := key_of(name)) is not None:
                    tasks.start_soon(self._hear_one, key)
        for name, uses in self._uses.items():
            if uses:
                self.tell(name, StoreCounts(state="up", workers=uses.told()))

    async def _hear_one(self, key: WorkerKey) -> None:
        said = await self._ask(key, "/")
        if said is not None:
            self._count(key, said)

    def _count(self, key: WorkerKey, said: Inside) -> None:
        counts = {STORE: {"requests": said.inside + said.served}, WORKFLOWS: said.workflows}
        for name, of in counts.items():
            if of:
                use = WorkerUse(account=key[0], worker=key[1], counts=of)
                self._uses[name].hear(use, said.process)

    def _begin(self, key: WorkerKey) -> None:
        self._changed[key] = anyio.Event()
        if self._tasks is not None:
            self._tasks.start_soon(self._keep, key)

    # -- one worker's --------------------------------------------------------------------------

    async def _keep(self, key: WorkerKey) -> None:
        """Do what is to be done for one worker, until it has no objects here any more."""
        said = None
        if name_of(key) in self.keeper.processes:
            self._lives.setdefault(key, Lives())
            said = await self._ask(key, "/")
        if said is not None and said.leaving:
            await self._stop(key)  # as an agent that was ended meanwhile had begun to do
        while True:
            self._changed[key] = anyio.Event()
            asked = self._asked(key)
            held = self.keeper.processes.get(name_of(key))
            step = next_step(asked, None if held is None else held.tags)
            try:
                if await self._do(step, key, asked):
                    return
            except OUTSIDE_ERRORS as error:
                self._journal.error("object_cell_failed", worker=key[1], error=str(error))
                await self._back_off(key)
                continue
            await self._changed[key].wait()

    def _asked(self, key: WorkerKey) -> Asked | None:
        version, used = newest(self._catalog, *key), self.workerds.used
        if version is None or not self._has(*key) or used is None or self.keeper.stopping.is_set():
            return None
        classes = tuple(one.id for _, one in self._classes(*key))
        workflows = tuple(msgspec.json.encode(one).decode() for one in self._workflows(*key))
        ways = ways_to_moved(self._catalog, version.account)
        bound = {b.fields["namespace_id"] for b in version.bindings if b.type == OBJECTS}
        mine = tuple(f"{each} {ways[each]}" for each in sorted(bound & ways.keys()))
        return Asked(version.id, used.mark, classes, workflows, mine)

    async def _do(self, step: Step, key: WorkerKey, asked: Asked | None) -> bool:
        """Do one step; tell whether it was the last one."""
        if self.keeper.stopping.is_set():
            return False
        if step in ("start", "end") and not await self._take_over(key):
            await anyio.sleep(LEAVE_LOOK_S)  # whoever has them still is about to leave
            self._changed[key].set()
            return False
        match step:
            case "stop":
                await self._stop(key)
                self._changed[key].set()
            case "start":
                assert asked is not None, "it is asked for"
                if key in self._failed:
                    raise KytheraError("it has ended before it listened.")
                if anyio.current_time() < self._calm_at.get(key, 0.0):
                    await anyio.sleep(self.platform.limits.crash_backoff_ms_min / 1000)
                await self._clean(key)
                await self._start(key, asked)
            case "end":
                await self.keeper.close(_socket(key))
                await self.keeper.close(_watch(key))
                await self._clean(key)
                if self._asked(key) is None:
                    del self._changed[key]
                    self._lives.pop(key, None)
                    return True
                self._changed[key].set()  # meanwhile it is wanted again
            case "rest":
                await self._tell_watched(key)
        return False

    async def _tell_watched(self, key: WorkerKey) -> None:
        """Tell the process whether somebody watches, if that has changed. It is not replaced: that
        would cut the connections of all who are not the watcher."""
        now, me = iso(self.mind.clock.now()), self.platform.machine
        watched = is_watched(self._catalog, *key, now, me)
        if self._watched.get(key) is watched or not self.keeper.processes[name_of(key)].ready:
            return
        said = await self._ask(key, "/watch" if watched else "/unwatch")
        if said is not None:
            self._watched[key] = said.watched

    async def _take_over(self, key: WorkerKey) -> bool:
        """Take the objects of classes that another worker had; tell whether nobody has them open."""
        classes = [one for one in classes_of(self._catalog, *key) if one.came_from]
        if not classes:
            return True
        async with self._handing_on:
            if any(self._is_open(key[0], giver, one) for one in classes for giver in one.came_from):
                return False
            taken = await anyio.to_thread.run_sync(take_over, self.layout, *key, classes)
        if taken:
            self._journal.info("objects_taken_over", worker=key[1], namespaces=taken)
        return True

    def _is_open(self, account: str, worker: str, one: ObjectClass) -> bool:
        held = self.keeper.processes.get(name_of((account, worker)))
        return held is not None and one.id in held.tags.get("namespaces", ())

    async def _clean(self, key: WorkerKey) -> None:
        classes, workflows = classes_of(self._catalog, *key), workflows_of(self._catalog, *key)
        gone = await anyio.to_thread.run_sync(remove_deleted, self.layout, *key, classes, workflows)
        if gone:
            self._journal.info("objects_removed", worker=key[1], namespaces=gone)

    async def _open(self, key: WorkerKey) -> None:
        path = self.layout.objects_socket(*key)
        await self.keeper.listen(_socket(key), path)
        # Cells have users of their own; who is not one of ours does not get past the folder.
        await anyio.Path(path).chmod(0o666)

    async def _start(self, key: WorkerKey, asked: Asked) -> None:
        version = self._catalog.version(*key, asked.version)
        used = self.workerds.used
        assert version is not None, "asked for because it is there"
        assert used is not None, "likewise"
        self._stopping.discard(key)
        if key in self._lives:
            self._lives[key].restarts += 1
        self._lives.setdefault(key, Lives())
        await self._open(key)
        await self.keeper.listen(_watch(key), self.layout.objects_watch(*key))
        await self.mind.prepare(version)
        uid = uid_of(key[0]) if self.platform.isolation.uids else None
        storage = await anyio.to_thread.run_sync(make_storage, self.layout, *key, uid)
        note_writer(self.layout, *key, used.version)
        name = name_of(key)
        sockets = {
            "http": _socket(key),
            WATCH: _watch(key),
            PULSE: await self.mind.pulses.open(name),
        }
        places = {which: f"{{socket:{socket}}}" for which, socket in sockets.items()}
        maker = self.mind.maker
        shut_in = maker.home_confined(version, Path(used.path), places, storage)
        async with self._handing_on:
            if self._asked(key) != asked:
                self._changed[key].set()  # a class was given away meanwhile, for example
                return
            self._failed.add(key)
            self._watched.pop(key, None)
            self._version[key] = asked.version
            self._calm_at[key] = anyio.current_time() + self.platform.limits.crash_forget_s
            held = await self.keeper.spawn(
                name,
                shut_in.argv,
                env=maker.environment(),
                stdin=maker.home_config(version, self._home(key, version, storage)),
                control=True,
                tags=msgspec.structs.asdict(asked),
                rlimits=shut_in.rlimits,
                batch=True,  # until the pace loop has seen that it is quiet
                uid=shut_in.uid,
                stage=shut_in.stage,
                cgroups=self.mind.groups.open(
                    _cell_name(key), name, memory_mib(version, self.platform.limits)
                ),
                stop_order=CELL_STOP_ORDER + 1,
            )
        self._journal.info(
            "object_cell_started", worker=key[1], version=asked.version, pid=held.pid
        )
        self.started(name)

    def _home(self, key: WorkerKey, version: Version, storage: Path) -> ObjectHome:
        limits = msgspec.structs.asdict(self.platform.limits)
        named = {name: value for name, value in limits.items() if name.startswith("workflow_")}
        classes, workflows = self._classes(*key), self._workflows(*key)
        says = keeps_message(version)
        return ObjectHome(classes, storage, workflows, version.id, says, named)

    async def _refuse_waiting(self, key: WorkerKey) -> None:
        listener = socket.socket(fileno=socket.dup(self.keeper.sockets[_socket(key)]))
        refused = await answer_waiting(listener, CANNOT_START)
        self._journal.error("calls_refused", worker=key[1], count=refused)

    def _cpu_ms_max(self, name: str) -> int:
        key, held = key_of(name), self.keeper.processes.get(name)
        version = None
        if key is not None and held is not None:
            version = self._catalog.version(*key, str(held.tags.get("version")))
        return cpu_ms_max(version, self.platform.limits)

    async def _back_off(self, key: WorkerKey) -> None:
        """Wait before the next try; who waits meanwhile is answered when it looks hopeless."""
        limits = self.platform.limits
        times = self._tries[key] = self._tries.get(key, 0) + 1
        self._failed.discard(key)
        if times >= limits.starts_failed_max and _socket(key) in self.keeper.sockets:
            await self._refuse_waiting(key)
        wait_ms = min(limits.crash_backoff_ms_min << min(times, 20), limits.crash_backoff_ms_max)
        await anyio.sleep(wait_ms / 1000)

    # -- replaced ------------------------------------------------------------------------------

    async def _stop(self, key: WorkerKey) -> None:
        """Let nobody in, wait for those inside, end it, and wait until it has ended."""
        self._stopping.add(key)
        name = name_of(key)
        with anyio.move_on_after(self.platform.limits.objects_leave_ms / 1000):
            while name in self.keeper.processes:
                said = await self._ask(key, "/leave")
                if said is not None:
                    self._count(key, said)
                if said is None or said.inside == 0:
                    break
                await anyio.sleep(LEAVE_LOOK_S)
        # Stateless cells keep their connection to it: no SIGTERM alone would ever end it. Nothing
        # is lost: what was acknowledged is on the disk (the object's output gate sees to that).
        for signum in (SIGTERM, SIGKILL):
            if name in self.keeper.processes:
                await self.keeper.signal(name, signum)
                with anyio.move_on_after(LEAVE_LOOK_S if signum == SIGTERM else None):
                    while name in self.keeper.processes:
                        await anyio.sleep(LEAVE_LOOK_S / 4)

    async def _ask(self, key: WorkerKey, path: str) -> Inside | None:
        """Ask an object cell who is inside; None when it does not answer."""
        received = b""
        try:
            with anyio.fail_after(1.0):
                async with await anyio.connect_unix(self.layout.objects_watch(*key)) as stream:
                    head = f"GET {path} HTTP/1.1\r\nHost: objects\r\nConnection: close\r\n\r\n"
                    await stream.send(head.encode())
                    async for chunk in stream:
                        received += chunk[:ANSWER_BYTES_MAX]
            return msgspec.json.decode(received.partition(b"\r\n\r\n")[2], type=Inside)
        except (OSError, TimeoutError, anyio.BrokenResourceError, msgspec.MsgspecError):
            return None


def _socket(key: WorkerKey) -> str:
    return name_of(key)


def _watch(key: WorkerKey) -> str:
    return f"watch/{name_of(key)}"


def _cell_name(key: WorkerKey) -> CellName:
    """For its control group: the worker's own."""
    return CellName(*key, "objects", 0, observed=False)
