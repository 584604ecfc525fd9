"""Workers KV as a process: `python -m kythera.node.kv_server --state DIR --socket FD`.

Started by the keeper (`node.kv_part`), which owns the socket: what cells ask waits while this is
down. It follows the log into its copy and answers from there; after a start it first catches up, so
that all that was acknowledged before is read, but serves from the copy as it is when the log stays
away (`kv_catch_up_ms`). On SIGTERM it finishes what is under way.
"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import structlog
from anyio import to_thread

import kythera.distribute.nats_alone  # noqa: F401
from kythera.distribute.blobs import Blobs
from kythera.distribute.copy import Copy
from kythera.distribute.core_finder import CoreFinder, mesh_secure
from kythera.distribute.fetch import fetcher_of
from kythera.distribute.fold import Fold
from kythera.distribute.kv_log import open_kv_log
from kythera.distribute.mesh import MeshClient
from kythera.ground.clock import SystemClock
from kythera.ground.journal import Journal, configure
from kythera.ground.layout import Layout
from kythera.ground.passes import store_key
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.limits import Limits
from kythera.node.kv_service import STORE, KvService
from kythera.store.kv_copy import KvCopy
from kythera.store.kv_http import Doors

BOOT = Path("/proc/sys/kernel/random/boot_id")
STOP_S = 4.0
BACKLOG = 1_024
SWEEPS_PER_BLOB_SWEEP = 10
MEET_RETRY_S = 1.0
FETCH_LOOK_S = 0.25
KEEP_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The socket's path is the keeper's."""
_journal = structlog.get_logger("kv")


def open_copy(layout: Layout, limits: Limits, now: float) -> KvCopy:
    """Open the copy; forget it when it was away for so long that ends may have passed it by."""
    copy = KvCopy(
        layout.data / STORE / "copy",
        boot=BOOT.read_text(encoding="ascii").strip(),
        bytes_max=limits.kv_copy_bytes_max,
    )
    if copy.is_whole() and now - copy.heard_at() > limits.tombstones_kept_s / 2:
        _journal.warning("kv_copy_outdated", heard_at=copy.heard_at())
        copy.clear()
    return copy


def records_of(layout: Layout) -> Callable[[], Catalog]:
    """Return what reads this machine's records, for finding the log."""
    catalog = Catalog()
    folds: list[Fold] = []

    def read() -> Catalog:
        if not folds:
            folds.append(Fold(Copy(layout.copy, readonly=True), catalog))
        folds[0].take()
        return catalog

    return read


async def serve(layout: Layout, descriptor: int) -> None:
    """Serve until a signal says stop."""
    platform, clock = layout.read_platform(), SystemClock()
    limits = platform.limits
    layout.data.mkdir(mode=0o700, exist_ok=True)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    sock.set_inheritable(False)
    async with AsyncExitStack() as stack:
        copy = open_copy(layout, limits, clock.now())
        stack.callback(copy.close)
        records = records_of(layout)
        finder = CoreFinder(layout, platform.machine, records)
        log = await stack.enter_async_context(
            open_kv_log(finder, limits, secure=mesh_secure(layout))
        )
        blobs = Blobs(layout.kv_blobs)
        mesh = await stack.enter_async_context(MeshClient(layout, limits))
        fetcher = await stack.enter_async_context(
            fetcher_of(blobs, mesh, records, platform.machine, limits)
        )
        service = KvService(
            copy=copy,
            blobs=blobs,
            log=log,
            fetch=fetcher.ensure,
            key=store_key(layout.store_key),
            limits=limits,
            clock=clock,
            holds_log=layout.log_address.exists,
        )
        async with anyio.create_task_group() as tasks:
            await _serve(service, sock, tasks)
            tasks.cancel_scope.cancel()


async def _serve(service: KvService, sock: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
    def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        tasks.start_soon(work)

    for loop in (_follow, _catch_up, _sweep, _fetch_ahead):
        tasks.start_soon(loop, service)
    doors = Doors(service, service.limits, spawn)
    server = await asyncio.get_running_loop().create_unix_server(
        doors.connection, sock=sock, backlog=BACKLOG, **KEEP_PATH
    )
    _journal.info("kv_serving", applied=service.copy.applied_seq())
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            break
    server.close()
    await doors.close(STOP_S)


async def _follow(service: KvService) -> None:
    """Follow the log into the copy, for ever."""
    said = ""
    while True:
        try:
            await service.meet()
            async for come in service.log.follow(service.position):
                service.take(come)
        except* StoreUnavailable as group:
            error = _first(group)
            service.refuse(str(error))
            if said != str(error):
                _journal.error("kv_cannot_follow", why=str(error))
            said = str(error)
        await anyio.sleep(MEET_RETRY_S)


def _first(group: BaseExceptionGroup[StoreUnavailable]) -> StoreUnavailable:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _catch_up(service: KvService) -> None:
    """Serve from the copy as it is when the log stays away."""
    with anyio.move_on_after(service.limits.kv_catch_up_ms / 1000):
        await service.ready.wait()
        return
    if service.copy.is_whole():
        _journal.warning("kv_serves_without_log", applied=service.copy.applied_seq())
        service.ready.set()


async def _sweep(service: KvService) -> None:
    """Reclaim what is over, for ever."""
    rounds = 0
    while True:
        await anyio.sleep(service.limits.kv_sweep_s)
        try:
            service.sweep()
            rounds += 1
            if rounds % SWEEPS_PER_BLOB_SWEEP == 0:
                await to_thread.run_sync(service.sweep_blobs)
        except StoreUnavailable as error:
            _journal.warning("kv_not_swept", why=str(error))


async def _fetch_ahead(service: KvService) -> None:
    """Fetch large values that other machines wrote, for ever; so each is on several machines soon."""
    while True:
        await anyio.sleep(FETCH_LOOK_S)
        digests = list(service.wanted)
        service.wanted.clear()
        for digest in digests:
            try:
                await service.fetch([digest])
            except StoreUnavailable as error:
                _journal.warning("kv_value_not_fetched", why=str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the store until it is told to stop; return an exit code."""
    parser = argparse.ArgumentParser(prog="kythera.node.kv_server")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, metavar="FD")
    options = parser.parse_args(arguments)
    configure("kv")
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # the links say it themselves
    try:
        anyio.run(serve, Layout(options.state), options.socket)
    except KytheraError as error:
        Journal("kv", json_lines=not sys.stderr.isatty()).say(
            "kv_cannot_start", level="error", reason=str(error)
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
