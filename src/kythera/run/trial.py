"""Starting a version for real before anybody depends on it.

Promises a verdict within the limits' deadlines: what the version exports and how long it took to
start, or a Refusal (10021) in JavaScript's own words with file, line and column. Whatever happens,
cancellation too, no process, socket or folder is left behind.
"""

import json
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
from anyio.lowlevel import RunVar

from kythera.ground import meters
from kythera.ground.processes import Child, child
from kythera.ground.sockets import close_all
from kythera.model.errors import Refusal
from kythera.model.limits import MIB, Limits
from kythera.model.platform import Isolation
from kythera.model.records import Module, Version
from kythera.run.config import CellSettings, trial_config
from kythera.run.prelude import TRIAL_ENTRYPOINT, source
from kythera.run.sandbox import ASSETS, Confined, ShutIn, confine, memory_mib
from kythera.run.workerd import workerd_argv

TRIALS_AT_ONCE_MAX = 2
"""Each burns a core; more would make all of them miss their deadlines."""
TRIAL_QUEUE_MS_MAX = 60_000
PROCESS_MIB_MAX = 512
"""Private memory of the whole process: catches what V8's heap limit does not count."""
POLL_MS = 20
MESSAGE_CHARACTERS_MAX = 4_000
HEAD_BYTES_MAX = 64 * 1024
NO_HANDLERS = "No event handlers were registered. This script does nothing."
# Never the word "startup": wrangler 4.86 answers it by profiling the bundle itself, which for an
# endless loop never ends.
CPU_EXCEEDED = "The script's top-level code exceeded its CPU time limit."
MEMORY_EXCEEDED = "The script's top-level code exceeded its memory limit."

_SERVICE = re.compile(r"^service .+?: ")
_LISTENER = re.compile(r"""addEventListener\s*\(\s*(["'`])(\w+)\1""")
SCRIPT_EVENTS = ("fetch", "scheduled", "queue", "email", "tail", "trace")
ENDED = ""
CONTROL_BYTES_MAX = 4096
_OUT_OF_MEMORY = ("JavaScript heap out of memory", "Reached heap limit")
_NEWEST_DATE = re.compile(r'requires compatibility date "(\S+)".* binary is "(\S+)"')
_turns: RunVar[anyio.CapacityLimiter] = RunVar("kythera_trials")


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a version turned out to be."""

    handlers: tuple[str, ...] = ()
    """Handlers of the default export (or the script's listeners), such as `fetch`."""
    named_handlers: tuple[str, ...] = ()
    """Other exports that can be called: entrypoints, Durable Objects, Workflows."""
    startup_time_ms: int = 0
    """CPU time from nothing to ready, the process's own start included."""


class _Exports(msgspec.Struct):
    handlers: list[str] = []
    named_handlers: list[str] = []
    is_class: bool = False


@dataclass(frozen=True)
class TrialSettings:
    """How trials run on this machine. `map_stack` makes positions those of the sources."""

    workerd: Path
    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = field(default_factory=Isolation)
    map_stack: Callable[[str], str] = str


async def try_hello(settings: TrialSettings) -> Trial:
    """Start a worker that says hello: to try a workerd with. Raises Refusal when it does not start."""
    hello = source("hello.js").encode()
    module = Module(name="hello.js", type="esm", digest="", size=len(hello))
    version = Version(
        account="probe",
        worker="hello",
        id="",
        number=0,
        created_on="",
        main_module=module.name,
        modules=(module,),
    )
    return await try_version(
        version, read_blob=lambda _: hello, open_secret=lambda _, text: text, settings=settings
    )


async def try_version(
    version: Version,
    *,
    read_blob: Callable[[str], bytes],
    open_secret: Callable[[str, str], str],
    settings: TrialSettings,
) -> Trial:
    """Start the version in a process of its own. Raises Refusal (10021) when it does not start."""
    with tempfile.TemporaryDirectory(prefix="kythera-trial-") as folder:
        Path(folder, "assets").mkdir(0o755)  # empty: files do not matter, the settings do
        config = trial_config(
            version,
            read_blob=read_blob,
            open_secret=open_secret,
            settings=CellSettings(
                assets_dir=ASSETS if settings.isolation.bubblewrap else Path(folder, "assets"),
                egress=None,  # nothing may be reached while nothing is served
                heap_mib_max=memory_mib(version, settings.limits),
            ),
        )
        async with _turn():
            try:
                tried = await _run(version, config, Path(folder), settings)
            except _Failed as failed:
                text = _explain(failed.message, version.modules, read_blob)
                raise Refusal(10021, settings.map_stack(text)) from None
    return tried if version.body_part is None else _with_listeners(tried, version, read_blob)


def _with_listeners(tried: Trial, version: Version, read_blob: Callable[[str], bytes]) -> Trial:
    script = next(module for module in version.modules if module.name == version.body_part)
    text = read_blob(script.digest).decode(errors="replace")
    return msgspec.structs.replace(tried, handlers=listeners(text))


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    try:
        turns = _turns.get()
    except LookupError:
        turns = anyio.CapacityLimiter(TRIALS_AT_ONCE_MAX)
        _turns.set(turns)
    with anyio.move_on_after(TRIAL_QUEUE_MS_MAX / 1000) as waited:
        await turns.acquire()
    if waited.cancelled_caught:
        raise Refusal(
            7010,
            "Too many uploads are being tried at this moment.",
            status=503,
            remedy="Try again.",
        )
    try:
        yield
    finally:
        turns.release()


class _Failed(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


async def _run(version: Version, config: bytes, folder: Path, settings: TrialSettings) -> Trial:
    with ExitStack() as opened:

        def kept(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        control, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        kept(control)
        with opened.enter_context(socket.socket(socket.AF_UNIX)) as listening:
            # A temporary folder's own path may be longer than a socket's may be.
            place = kept(os.open(folder, os.O_PATH | os.O_CLOEXEC))
            path = Path(f"/proc/self/fd/{place}/trial.sock")
            listening.bind(str(path))
            listening.listen()
            given = [listening.fileno(), theirs]
            shut_in = _shut_in(version, folder, settings, given)
            try:
                running = child(
                    shut_in.argv,
                    env=_ENVIRONMENT,
                    pass_fds=given,
                    stdin=config,
                    rlimits=shut_in.rlimits,
                    uid=shut_in.uid,
                    stage=shut_in.stage,
                )
                async with running as process:
                    close_all(given[1:])
                    del given[1:]
                    return await _watch(version, process, control, path, settings)
            finally:
                close_all(given[1:])


def _shut_in(version: Version, folder: Path, settings: TrialSettings, given: list[int]) -> Confined:
    """Return the trial's command, as shut in as the version's cells will be; `given` (socket,
    control) gets the descriptors that this needs as well."""
    listening, control = given
    isolation = settings.isolation
    if isolation.bubblewrap:
        given.append(os.dup(control))
        if isolation.seccomp:
            given.append(os.open(isolation.seccomp, os.O_RDONLY | os.O_CLOEXEC))
    cell = ShutIn(
        program=settings.workerd,
        arguments=workerd_argv({"http": str(listening)}, str(control)),
        account=version.account,
        memory_mib=memory_mib(version, settings.limits),
        folders={} if version.assets is None else {ASSETS: folder / "assets"},
    )
    info, seccomp = str(given[2]) if len(given) > 2 else "", str(given[-1])
    return confine(cell, isolation, settings.limits, info=info, seccomp=seccomp)


_ENVIRONMENT = {"TZ": "UTC", "LANG": "C.UTF-8"}


async def _watch(
    version: Version, process: Child, control: int, path: Path, settings: TrialSettings
) -> Trial:
    said: list[str] = []

    async def listen() -> None:
        # A flood of console output must not fill the pipe and stop the start.
        output = await process.read_output()
        said.append(output.stderr.decode(errors="replace"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        startup_ms, failure = await _ready(process, control, settings.limits)
        if failure is None:
            exports = await _exports(version, path, settings)
        if failure != ENDED:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise _Failed(_reason(said[0]) if failure == ENDED else failure)
    return _judge(version, exports, startup_ms)


async def _ready(process: Child, control: int, limits: Limits) -> tuple[int, str | None]:
    """Wait until workerd listens (None), has ended (ENDED) or has used up what a start may use."""
    used_ms, said = 0, b""
    with anyio.move_on_after(limits.startup_deadline_ms / 1000):
        while True:
            with anyio.move_on_after(POLL_MS / 1000):
                await anyio.wait_readable(control)
                more = os.read(control, CONTROL_BYTES_MAX)
                said += more
                process.look_inside(said)
                used_ms = max(1, round(process.cpu_seconds() * 1000))
                if b'"listen"' in said or not more:
                    return used_ms, None if more else ENDED
            if process.cpu_seconds() * 1000 > limits.startup_ms_max:
                return used_ms, CPU_EXCEEDED
            if meters.private_bytes(process.working_pid) > PROCESS_MIB_MAX * MIB:
                return used_ms, MEMORY_EXCEEDED
    return used_ms, f"The script's top-level code took longer than {limits.startup_deadline_ms} ms."


async def _exports(version: Version, path: Path, settings: TrialSettings) -> _Exports | None:
    """Ask an ES module what it exports; None when it does not answer, or not in our words: what
    it exports, and whatever makes JSON of that, may be its own making."""
    if version.main_module is None:
        return _Exports()
    try:
        with anyio.move_on_after(settings.limits.startup_deadline_ms / 1000):
            head, _, body = (await _ask(path)).partition(b"\r\n\r\n")
            if b" 200 " in head.partition(b"\r\n")[0]:
                return msgspec.json.decode(body, type=_Exports)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    except (OSError, anyio.BrokenResourceError):
        pass  # It has ended.
    return None


async def _ask(path: Path) -> bytes:
    received = b""
    async with await anyio.connect_unix(path) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: trial\r\nConnection: close\r\n\r\n")
        async for chunk in stream:
            received += chunk
            if len(received) > HEAD_BYTES_MAX:
                break
    return received


def _judge(version: Version, exports: _Exports | None, startup_ms: int) -> Trial:
    if exports is None:
        raise _Failed("The script started, but then did not answer.")
    if version.main_module is not None and not (
        exports.handlers or exports.named_handlers or exports.is_class
    ):
        raise _Failed(NO_HANDLERS)
    return Trial(
        handlers=tuple(exports.handlers),
        named_handlers=tuple(exports.named_handlers),
        startup_time_ms=startup_ms,
    )


def listeners(script: str) -> tuple[str, ...]:
    """Return the events that a script in service-worker format listens for, as far as its text
    tells: they cannot be asked for, but workerd itself has refused a script that has none."""
    found = {match[2] for match in _LISTENER.finditer(script)}
    return tuple(name for name in SCRIPT_EVENTS if name in found) or ("fetch",)


def _reason(stderr: str) -> str:
    """Return what workerd said, without its own prefix and its native stack."""
    if any(sign in stderr for sign in _OUT_OF_MEMORY):
        return MEMORY_EXCEEDED
    raw = [line for line in stderr.splitlines() if TRIAL_ENTRYPOINT not in line]
    starts = [number for number, line in enumerate(raw) if _SERVICE.match(line)]
    lines = [_SERVICE.sub("", line) for line in raw[starts[0] if starts else 0 :]]
    text = "\n".join(lines).strip()
    # A script that fails has registered nothing: saying so again only hides the reason.
    if text != NO_HANDLERS:
        text = text.replace(NO_HANDLERS, "").strip()
    return text[:MESSAGE_CHARACTERS_MAX] or "The script does not start, and does not say why."


def _explain(message: str, modules: Sequence[Module], read_blob: Callable[[str], bytes]) -> str:
    """Name the module where workerd does not: broken JSON and WebAssembly have no line."""
    if "JSON" in message:
        kind, is_broken = "json", _is_broken_json
    elif "WasmModuleObject" in message:
        kind, is_broken = "wasm", _is_broken_wasm
    else:
        return _in_time(message)
    names = [m.name for m in modules if m.type == kind and is_broken(read_blob(m.digest))]
    message = re.sub(r"\n:\d+:\d+$", "", message)
    return message + "".join(f"\n  in {name}" for name in names)


def _in_time(message: str) -> str:
    """Of a compatibility date too late, workerd complains twice; say what to do instead."""
    found = _NEWEST_DATE.search(message)
    if found is None:
        return message
    return (
        f'This Worker requires compatibility date "{found[1]}", but this platform supports dates '
        f'up to "{found[2]}" that are not in the future. Set an earlier compatibility_date.'
    )


def _is_broken_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return True
    return False


def _is_broken_wasm(content: bytes) -> bool:
    return not content.startswith(b"\0asm\1\0\0\0")
