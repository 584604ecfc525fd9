"""What a queue carries: here, beside workerd's own queues in one process, and beside `wrangler dev`.

The same worker on all three sends to a queue, consumes it and counts. Here a message passes the sender's
cell, the queues' process (on the disk before it is acknowledged), the agent, and the consumer's cell;
the others have it all in one process, and `wrangler dev` keeps it in memory. Rounds take turns.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from bench.client import Address, Broken, Connection
from bench.figures import Figure, median
from bench.running import platform
from kythera.ground.processes import child
from kythera.run.config import OWN_COMPATIBILITY_DATE, encode
from kythera.run.outbound import nothing
from kythera.run.store_config import DISK, bundled, store_worker
from kythera.run.workerd import find_workerd, workerd_argv

ROUNDS, MESSAGES, BATCH, SINGLES = 5, 5_000, 100, 100
BODY = "x" * 100
DONE_S, READY_S = 60.0, 60.0
SLOWER_MAX = 1.0
"""Than `wrangler dev`: nothing may be."""
WRANGLER = Path(__file__).parents[1] / "tests/wrangler/4.86.0/node_modules/wrangler/bin/wrangler.js"
CODE = f"""
let seen = 0;
export default {{
  async fetch(request, env) {{
    const [, what, count] = new URL(request.url).pathname.split('/');
    if (what === 'single') {{
      await env.Q.send('{BODY}');
    }}
    for (let left = what === 'many' ? Number(count) : 0; left > 0; left -= {BATCH}) {{
      await env.Q.sendBatch(Array.from({{ length: {BATCH} }}, () => ({{ body: '{BODY}' }})));
    }}
    return new Response(String(seen));
  }},
  async queue(batch) {{
    seen += batch.messages.length;
  }},
}};
"""
QUEUE = "bench"


@dataclass(frozen=True)
class Side:
    """One of those compared: where its worker answers."""

    name: str
    address: Address
    host: str


@dataclass(frozen=True)
class Taken:
    """What one round of one side took, in seconds: until all was acknowledged, until it was seen."""

    acknowledged_s: float
    seen_s: float
    single_s: float


@asynccontextmanager
async def _kythera() -> AsyncIterator[Side]:
    async with platform() as running:
        async with running.api() as api:
            account = f"{running.ready['api']}/accounts/{running.ready['account_id']}"
            made = await api.post(f"{account}/queues", json={"queue_name": QUEUE})
            queue = made.json()["result"]["queue_id"]
            bindings = [{"type": "queue", "name": "Q", "queue_name": QUEUE}]
            metadata = {"main_module": "w.js", "compatibility_date": "2026-01-01"}
            form: dict[str, Any] = {
                "metadata": (None, json.dumps({**metadata, "bindings": bindings})),
                "w.js": ("w.js", CODE, "application/javascript+module"),
            }
            (await api.put("bench", files=form)).raise_for_status()
            settings = {"batch_size": BATCH, "max_wait_time_ms": 0}
            consumer = {"script_name": "bench", "settings": settings}
            added = await api.post(f"{account}/queues/{queue}/consumers", json=consumer)
            added.raise_for_status()
        await running.served("bench")
        yield Side("kythera", running.front, running.host("bench"))


def _bundled_config(disk: Path) -> bytes:
    props = {"json": json.dumps({"queue": QUEUE})}
    app: dict[str, Any] = {
        "modules": [{"name": "w.js", "esModule": CODE}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "bindings": [{"name": "Q", "queue": {"name": "queues", "props": props}}],
    }
    consumers = {QUEUE: {"consumer": "APP", "maxBatchSize": BATCH, "maxBatchTimeout": 0}}
    queues = store_worker(
        [bundled("queues.js")],
        [
            {"name": "SHARD", "durableObjectNamespace": {"className": "QueueShard"}},
            {"name": "CONSUMERS", "json": json.dumps(consumers)},
            {"name": "APP", "service": {"name": "app"}},
        ],
        compatibilityFlags=["service_binding_extra_handlers"],
        durableObjectNamespaces=[{"className": "QueueShard", "uniqueKey": "q", "enableSql": True}],
        durableObjectStorage={"localDisk": DISK},
    )
    services = [
        nothing(),
        {"name": DISK, "disk": {"path": str(disk), "writable": True}},
        {"name": "app", "worker": app},
        {"name": "queues", "worker": queues},
    ]
    return encode(
        {
            "services": services,
            "sockets": [{"name": "http", "http": {}, "service": {"name": "app"}}],
        }
    )


@asynccontextmanager
async def _bundled(folder: Path) -> AsyncIterator[Side]:
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        argv = [str(find_workerd()), *workerd_argv({"http": str(listener.fileno())}, "2")]
        config = _bundled_config(folder)
        async with child(argv, pass_fds=[listener.fileno()], stdin=config, capture=False):
            yield Side("bundled", listener.getsockname(), "bench")


@asynccontextmanager
async def _wrangler_dev(folder: Path) -> AsyncIterator[Side]:
    folder.mkdir()
    consumer = {"queue": QUEUE, "max_batch_size": BATCH, "max_batch_timeout": 0}
    config = {
        "name": "bench",
        "main": "w.js",
        "compatibility_date": "2026-01-01",
        "queues": {"producers": [{"binding": "Q", "queue": QUEUE}], "consumers": [consumer]},
    }
    (folder / "wrangler.json").write_text(json.dumps(config))
    (folder / "w.js").write_text(CODE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = ["node", str(WRANGLER), "dev", "--ip", "127.0.0.1", "--port", str(port)]
    argv += ["--inspector-port", "0", "--log-level", "error"]
    quiet = {"WRANGLER_SEND_METRICS": "false", "CLOUDFLARE_CF_FETCH_ENABLED": "false", "CI": "true"}
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], **quiet}
    async with await anyio.open_process(
        argv, cwd=folder, env=environment, stdout=None, stderr=None, start_new_session=True
    ) as process:
        try:
            yield Side("wrangler dev", ("127.0.0.1", port), "bench")
        finally:
            os.killpg(process.pid, 15)


async def _ready(side: Side) -> Connection:
    with anyio.fail_after(READY_S):
        while True:
            try:
                connection = await Connection.open(side.address)
                if (await connection.ask(side.host, "GET", "/")).status == 200:
                    return connection
            except (Broken, OSError):
                await anyio.sleep(0.1)


async def _seen(connection: Connection, side: Side) -> int:
    return int((await connection.ask(side.host, "GET", "/")).body)


async def _round(side: Side) -> Taken:
    """Send many and wait until they were seen; then some, one after the other."""
    connection = await _ready(side)
    before = await _seen(connection, side)
    began = time.monotonic()
    answer = await connection.ask(side.host, "GET", f"/many/{MESSAGES}")
    assert answer.status == 200, answer
    acknowledged_s = time.monotonic() - began
    with anyio.fail_after(DONE_S):
        while await _seen(connection, side) < before + MESSAGES:
            await anyio.sleep(0.01)
    seen_s = time.monotonic() - began
    singles = []
    for _ in range(SINGLES):
        began = time.monotonic()
        assert (await connection.ask(side.host, "GET", "/single")).status == 200
        singles.append(time.monotonic() - began)
    with anyio.fail_after(DONE_S):
        while await _seen(connection, side) < before + MESSAGES + SINGLES:
            await anyio.sleep(0.01)
    return Taken(acknowledged_s, seen_s, median(singles))


async def run() -> list[Figure]:
    """Measure."""
    rounds: dict[str, list[Taken]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kythera-bench-")))
        sides = [
            await stack.enter_async_context(_kythera()),
            await stack.enter_async_context(_bundled(folder / "bundled")),
            await stack.enter_async_context(_wrangler_dev(folder / "dev")),
        ]
        for _ in range(ROUNDS):
            for side in sides:
                rounds.setdefault(side.name, []).append(await _round(side))
    return _figures(rounds)


def _figures(rounds: dict[str, list[Taken]]) -> list[Figure]:
    found = []
    for name, taken in rounds.items():
        seen, sent = median(t.seen_s for t in taken), median(t.acknowledged_s for t in taken)
        single = median(t.single_s for t in taken)
        for what, value, unit in (
            ("messages delivered", MESSAGES / seen, "/s"),
            ("messages acknowledged", MESSAGES / sent, "/s"),
            ("one send, median", single * 1000, "ms"),
        ):
            found.append(Figure(bench="queues", name=f"{what}: {name}", value=value, unit=unit))
    for other, most in (("wrangler dev", SLOWER_MAX), ("bundled", None)):
        pairs = zip(rounds["kythera"], rounds[other], strict=True)
        ratio = median(ours.seen_s / theirs.seen_s for ours, theirs in pairs)
        name = f"time to deliver {MESSAGES:,}, beside {other}"
        found.append(Figure(bench="queues", name=name, value=ratio, unit="x", target=most))
    return found
