"""Moves the log to other servers, one step at a time, as `moving` decides.

Runs on a machine that has an old and a new server of its own and speaks to both over loopback. All
it knows it asks of those two each time, so that it can end anywhere and another machine, or the
next start of this one, goes on. Each record is written with its own message id, so that a write
that is tried again over the move is still known, and with its old sequence, so that whoever goes
on copying knows where.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import msgspec
import structlog
from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from kythera.distribute.cores import servers_wanted
from kythera.distribute.feed import Arrived, Broken, Feed
from kythera.distribute.link import Link, LinkLost, Links, connected
from kythera.distribute.moving import (
    Announce,
    CopyOn,
    Create,
    Facts,
    Freeze,
    Nothing,
    Open,
    Step,
    Thaw,
    Wait,
    drives,
    next_step,
    settled,
)
from kythera.distribute.nats_config import cluster_server_name
from kythera.distribute.nats_server import (
    ServerFile,
    ask_servers,
    leader_in,
    point_at,
    refuse_unsynced,
    server_file,
)
from kythera.distribute.stream import (
    FROM,
    FROZEN_MARK,
    FROZEN_SUBJECTS,
    MESSAGE_ID,
    PREFIX,
    STREAM,
    ApiRefusal,
    Stored,
    change_stream,
    make_stream,
    publish,
    stored_message,
    stream_config,
    stream_state,
)
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.model.records import Core, decode, encode

POLL_MS = 250
LOOK_S = 15.0
"""Between two looks while the log does not move."""
WINDOW = 256
"""Records under way at once while they are copied."""
STEP_MS_MAX = 120_000
CORE_KEY = "core.log"
PROGRESS = "moving.json"
TROUBLE = (
    *(OSError, NatsError, JetStreamError, LinkLost, TimeoutError, ApiRefusal, Broken),
    *(KytheraError, msgspec.MsgspecError),
)

_events = structlog.get_logger()


class Progress(Struct, frozen=True, kw_only=True):
    """How far a move is, for whoever asks this machine."""

    epoch: int
    step: str
    copied_to: int = 0
    last_seq: int = 0


def read_progress(layout: Layout) -> Progress | None:
    """Return how far the move is that this machine drives (or drove last)."""
    try:
        return msgspec.json.decode((layout.nats / PROGRESS).read_bytes(), type=Progress)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


@dataclass(frozen=True)
class Servers:
    """The two servers of this machine between which the log moves, as it is connected to them."""

    old: Link | None
    new: Link | None
    watcher: Link | None
    """To the new one as well, but it may ask how the servers are."""


class Mover:
    """Brings one machine's part of a move on."""

    def __init__(self, layout: Layout, me: str, limits: Limits) -> None:
        self._layout = layout
        self._me = me
        self._limits = limits
        self._told = ""

    async def keep_moving(self, core: Callable[[], Core | None]) -> None:
        """Look again and again whether the log is to move, and bring it on; for ever.

        `core` returns the newest Core record that this machine knows."""
        epoch, since = 0, anyio.current_time()
        looked_at = float("-inf")
        while True:
            known, now = core(), anyio.current_time()
            if known is not None and known.wanted:
                if known.wanted_epoch != epoch:
                    epoch, since = known.wanted_epoch, now
                if drives(known, self._me, (now - since) * 1000):
                    await self._try_step(known)
            elif known is not None and self._me in known.machines and now - looked_at > LOOK_S:
                looked_at = now  # A wish may have been given up while its move froze the log.
                await self._try_step(known)
            await anyio.sleep(POLL_MS / 1000)

    async def _try_step(self, known: Core) -> None:
        try:
            with anyio.fail_after(STEP_MS_MAX / 1000):
                await self.step(known)
        except TROUBLE as error:
            if known.wanted:
                self._say(known, f"it goes on in a moment: {str(error) or type(error).__name__}")

    async def step(self, known: Core) -> Step:
        """Gather the facts, do the next step, return which it was."""
        async with self._servers(known) as servers:
            facts = await self.facts(known, servers)
            step = next_step(facts)
            if known.wanted or step != Nothing():
                self._say(facts.core, _sentence(step), facts)
            await self._do(step, servers, facts)
        return step

    @asynccontextmanager
    async def _servers(self, core: Core) -> AsyncIterator[Servers]:
        old = server_file(self._layout, core.epoch)
        new = server_file(self._layout, core.wanted_epoch)
        async with (
            _linked(old, watching=False) as first,
            _linked(new, watching=False) as second,
            _linked(new, watching=True) as third,
        ):
            yield Servers(first, second, third)

    async def facts(self, known: Core, servers: Servers) -> Facts:
        """Ask both servers how things are."""
        old = None if servers.old is None else await stream_state(servers.old)
        core = known
        if servers.old is not None and old is not None:
            newest = await stored_message(servers.old, {"last_by_subj": PREFIX + CORE_KEY})
            core = decode(Core, newest.data) if newest is not None else known
        other = core.wanted_epoch != known.wanted_epoch
        if not core.wanted or other or servers.new is None:
            return Facts(core=core, old=old)
        answering, led = await self._new_servers(core, servers)
        new = await stream_state(servers.new) if led else None
        copied_to, left = 0, True
        if new is not None and not new.open and servers.old is not None:
            copied_to = await _copied_to(servers.new, new.last_seq, new.messages)
            left = await _has_after(servers.old, copied_to)
        return Facts(
            core=core,
            old=old,
            new=new,
            answering=answering,
            led=led,
            copied_to=copied_to,
            left=left,
        )

    async def _new_servers(self, core: Core, servers: Servers) -> tuple[frozenset[str], bool]:
        """Return which machines' new servers answer and sync, and whether they have a leader."""
        assert servers.watcher is not None
        if len(core.wanted) == 1:
            own = str(servers.watcher.client._server_info["server_name"])
            refuse_unsynced((await ask_servers(servers.watcher, {own}))[own])
            return frozenset(core.wanted), True
        names = {cluster_server_name(name, core.wanted_epoch): name for name in core.wanted}
        answers = await ask_servers(servers.watcher, names)
        for answer in answers.values():
            refuse_unsynced(answer)
        leaders = {leader_in(answer, len(core.wanted)) for answer in answers.values()}
        heard = frozenset(names[server] for server in answers if server in names)
        return heard, len(leaders) == 1 and None not in leaders

    async def _do(self, step: Step, servers: Servers, facts: Facts) -> None:
        match step:
            case Freeze():
                assert servers.old is not None
                config = stream_config(self._limits, len(facts.core.machines))
                config.subjects = list(FROZEN_SUBJECTS)
                await change_stream(servers.old, config)
            case Thaw():
                assert servers.old is not None
                config = stream_config(self._limits, len(facts.core.machines))
                await change_stream(servers.old, config)
            case Create(first_seq):
                assert servers.old is not None
                assert servers.new is not None
                # Behind all that was under way when it was frozen: followers may have read that.
                first = max(first_seq, await publish(servers.old, FROZEN_MARK, b"", {}) + 1)
                size = len(facts.core.wanted)
                config = stream_config(self._limits, size, first, copying=True)
                await make_stream(servers.new, config)
            case CopyOn(after_seq):
                assert servers.old is not None
                assert servers.new is not None
                assert facts.new is not None
                await self._copy(servers.old, servers.new, after_seq, facts)
            case Open():
                assert servers.old is not None
                assert servers.new is not None
                if await _is_final(servers.old, facts.copied_to):
                    config = stream_config(self._limits, len(facts.core.wanted))
                    await change_stream(servers.new, config)
            case Announce(core):
                assert servers.new is not None
                await _announce(servers.new, core)
            case Wait() | Nothing():
                return

    async def _copy(self, old: Link, new: Link, after_seq: int, facts: Facts) -> None:
        """Copy all that is left, a window at a time."""
        assert facts.new is not None
        assert facts.old is not None
        place = facts.new.last_seq
        feed = Feed(old, STREAM, PREFIX, after_seq, self._limits.source_silent_ms_max)
        try:
            await feed.open()
            while after_seq < facts.old.last_seq and await _has_after(old, after_seq):
                for window in _windows(await feed.next_messages()):
                    await _copy_window(new, _settled_in(window, facts.core), place)
                    place += len(window)
                    after_seq = window[-1].seq
                    self._say(facts.core, _sentence(CopyOn(after_seq)), facts, after_seq)
        finally:
            await feed.close()

    def _say(
        self, core: Core, sentence: str, facts: Facts | None = None, copied_to: int = 0
    ) -> None:
        last = facts.old.last_seq if facts is not None and facts.old is not None else 0
        told = Progress(epoch=core.wanted_epoch, step=sentence, copied_to=copied_to, last_seq=last)
        if sentence != self._told:
            _events.info("log_moving", epoch=core.wanted_epoch, step=sentence)
        self._told = sentence
        write_private(self._layout.nats / PROGRESS, msgspec.json.encode(told))


async def point_to_log(layout: Layout, core: Core | None, me: str) -> None:
    """Make the right one of this machine's servers its log: the newest whose stream is open.

    The server of the epoch that holds the log needs not be asked: none but it can be the log."""
    for plan in servers_wanted(core, me):
        file = server_file(layout, plan.epoch)
        current = core is not None and plan.epoch == core.epoch
        if file is not None and (current or await _is_open(file)):
            point_at(layout, file)
            return
    point_at(layout, None)


async def _is_open(file: ServerFile) -> bool:
    async with _linked(file, watching=False) as link:
        if link is None:
            return False
        try:
            state = await stream_state(link)
        except TROUBLE:
            return False
        return state is not None and state.open


def _sentence(step: Step) -> str:
    match step:
        case Wait(why):
            return f"waits {why}" if why.startswith("for") else f"waits: {why}"
        case Freeze():
            return "writers wait from now on"
        case Thaw():
            return "it was given up: writers go on"
        case Create(first_seq):
            return f"makes the new stream, from record {first_seq:,}"
        case CopyOn():
            return "copies"
        case Open():
            return "opens the new log"
        case Announce(core):
            return f"{', '.join(core.machines)} hold the log"
        case Nothing():
            return "done"


@asynccontextmanager
async def _linked(file: ServerFile | None, *, watching: bool) -> AsyncIterator[Link | None]:
    """Connect to one of our own servers; None where it does not answer."""
    if file is None:
        yield None
        return
    user = file.address.watcher if watching else file.address.user
    attempt = connected(file.address, user, Links())
    try:
        link = await attempt.__aenter__()
    except (OSError, NatsError, TimeoutError):
        yield None
        return
    try:
        yield link
    finally:
        await attempt.__aexit__(None, None, None)


async def _copied_to(new: Link, last_seq: int, messages: int) -> int:
    """Return the old sequence of the newest record that has been copied; 0: none was."""
    if messages == 0:
        return 0
    newest = await stored_message(new, {"seq": last_seq})
    return 0 if newest is None else int(newest.headers.get(FROM, 0))


async def _has_after(old: Link, seq: int) -> bool:
    wanted = {"seq": seq + 1, "next_by_subj": f"{PREFIX}>"}
    return await stored_message(old, wanted) is not None


async def _is_final(old: Link, copied_to: int) -> bool:
    """Make sure that nothing comes any more into the frozen stream, and that all was copied.

    A write that its servers took just before the freeze may be committed after it; a mark that is
    written now is committed behind all of those."""
    await publish(old, FROZEN_MARK, b"", {})
    return not await _has_after(old, copied_to)


def _windows(messages: Sequence[Arrived]) -> list[Sequence[Arrived]]:
    records = [arrived for arrived in messages if arrived.subject.startswith(PREFIX)]
    return [records[n : n + WINDOW] for n in range(0, len(records), WINDOW)]


def _settled_in(window: Sequence[Arrived], core: Core) -> list[Arrived]:
    """Return a window in which the wish that is being fulfilled is fulfilled: whoever reads the new
    log never reads that the old servers hold it, and cannot write a new wish over that."""
    done = encode(settled(core))
    return [
        arrived._replace(data=done) if arrived.subject == PREFIX + CORE_KEY else arrived
        for arrived in window
    ]


async def _copy_window(new: Link, window: Sequence[Arrived], place: int) -> None:
    """Write records into the places after `place`; raises ApiRefusal when one is taken."""
    failure: Exception | None = None

    async def copy(number: int, arrived: Arrived) -> None:
        nonlocal failure
        headers = {FROM: str(arrived.seq), "Nats-Expected-Last-Sequence": str(place + number)}
        if MESSAGE_ID in arrived.headers:
            headers[MESSAGE_ID] = arrived.headers[MESSAGE_ID]
        try:
            await publish(new, arrived.subject, arrived.data, headers)
        except (ApiRefusal, LinkLost, NatsError, TimeoutError) as error:
            failure = failure or error

    async with anyio.create_task_group() as tasks:
        for number, arrived in enumerate(window):
            tasks.start_soon(copy, number, arrived)
    if failure is not None:
        raise failure


async def _announce(new: Link, core: Core) -> None:
    """Write the record of the finished move, unless it is there already (or a later one)."""
    newest: Stored | None = await stored_message(new, {"last_by_subj": PREFIX + CORE_KEY})
    if newest is not None and decode(Core, newest.data).epoch >= core.epoch:
        return
    headers = {
        MESSAGE_ID: f"{CORE_KEY}:epoch-{core.epoch}",
        "Nats-Expected-Last-Subject-Sequence": str(0 if newest is None else newest.seq),
    }
    await publish(new, PREFIX + CORE_KEY, encode(core), headers)
