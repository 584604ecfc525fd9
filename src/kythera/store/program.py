"""A store as a process: `python -m kythera.store.program NAME --state DIR --listen-fd N`.

The keeper starts it with the store's socket, which stays the keeper's: what is asked while no process
runs waits there. On SIGTERM it stops listening, finishes what it can within `stop_ms`, and ends.
"""

import argparse
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import uvicorn

from kythera.ground.journal import configure
from kythera.ground.layout import Layout
from kythera.model.limits import Limits
from kythera.store.exchange import App, Store, app_of

HEAD_BYTES_MAX = 256 * 1024
"""Of a request: what a worker's own headers may take, and more."""
KEEP_ALIVE_S = 600
"""A cell keeps its connections; one that closes at the wrong moment fails a request."""


def _cache(layout: Layout, limits: Limits) -> Store:
    from kythera.store.cache import CacheStore

    return CacheStore(layout.cache, limits)


def _rate_limits(layout: Layout, limits: Limits) -> Store:
    from kythera.store.rate_limits import RateLimitStore

    return RateLimitStore(limits)


def _analytics(layout: Layout, limits: Limits) -> Store:
    from kythera.store.analytics import AnalyticsStore

    return AnalyticsStore(layout.data / "analytics", limits)


STORES: dict[str, Callable[[Layout, Limits], Store]] = {
    "analytics": _analytics,
    "cache": _cache,
    "ratelimit": _rate_limits,
}
"""By name, as in the name of the socket; each imports what it needs alone."""


class _QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the server."""
        yield


def _server(app: App, limits: Limits) -> _QuietServer:
    return _QuietServer(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, limits.stop_ms // 2000),
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
    )


async def serve(name: str, layout: Layout, listener: socket.socket) -> None:
    """Serve until a signal says stop."""
    limits = layout.read_platform().limits
    layout.data.mkdir(mode=0o700, exist_ok=True)
    store = STORES[name](layout, limits)
    server = _server(app_of(store, name, layout.store_key.read_text(encoding="ascii")), limits)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.keep)
            tasks.start_soon(_stop_on_signal, server)
            await partial(server.serve, sockets=[listener])()
            tasks.cancel_scope.cancel()
    finally:
        store.close()


async def _stop_on_signal(server: uvicorn.Server) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            server.force_exit = server.should_exit
            server.should_exit = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a store until it is told to stop; return an exit code."""
    parser = argparse.ArgumentParser(prog="kythera.store.program")
    parser.add_argument("store", choices=sorted(STORES))
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    configure(f"store/{options.store}")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    listener = socket.socket(fileno=options.listen_fd)
    listener.set_inheritable(False)
    listener.setblocking(False)
    anyio.run(serve, options.store, Layout(options.state), listener)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
