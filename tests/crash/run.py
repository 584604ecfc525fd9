"""Random operations on all stores while cells, stores and the whole platform are killed, from a seed.

Each round: some writes at the same time, and meanwhile one `kill -9` (or none). What was acknowledged is
looked for after each kill of a store, and all of it at the end.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.crash.ledger import Ledger
from tests.platforms import RunningPlatform, start
from tests.processes import command, family, wait_until

WORKER = "crash"
NAMES_PER_STORE = 4
WRITES_PER_ROUND = 10
WRITE_S_MAX = 30.0
SETTLED_S_MAX = 60.0
KILL_AFTER_MS_MAX = 60
MARKS = {"kv": "KV", "r2": "R2", "d1": "DB", "object": "COUNTER", "queue": "QUEUE"}
"""Stores, and the binding that tells whether the platform has one."""
TWICE = 599
KEEPER_SHARE = 0.1
"""Of the kills that take the whole platform: each costs seconds."""


@dataclass
class Crash:
    """One history."""

    platform: RunningPlatform
    seed: int
    early: bool = False
    """The planted fault: the worker acknowledges before it writes."""
    ledger: Ledger = field(default_factory=Ledger)
    stores: tuple[str, ...] = ()
    kills: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def begin(self) -> None:
        """See which stores there are."""
        wait_until(lambda: self._ask("/begin") is not None, "the worker answers", deadline_s=30)
        names = (self._ask("/begin") or "").split(",")
        self.stores = tuple(store for store, binding in MARKS.items() if binding in names)

    def run(self, rounds: int, *, settles: bool = True) -> None:
        """Go through so many rounds, and look at the end for everything."""
        with ThreadPoolExecutor(WRITES_PER_ROUND) as clients:
            for _ in range(rounds):
                self._round(clients)
        if settles:
            self.settle()

    def _round(self, clients: ThreadPoolExecutor) -> None:
        chosen = [self._choice() for _ in range(WRITES_PER_ROUND)]
        # One client writes a name, so that the last acknowledged value is the last one written.
        writes = list(dict.fromkeys(chosen))
        victim = self._random.choice([*self._victims(), None])
        delay_s = self._random.randrange(KILL_AFTER_MS_MAX) / 1000
        running = [clients.submit(self._write, store, name) for store, name in writes]
        if victim is not None:
            time.sleep(delay_s)  # part of the history, not a wait
            self._kill(*victim)
        for one in running:
            one.result()
        if victim is not None:
            self._look({(store, name) for store, name in writes if store != "queue"})

    def _look(self, names: Iterable[tuple[str, str]]) -> None:
        """See that what was acknowledged is there, as soon as it can be asked for; nothing is being
        written meanwhile, so that no later write can hide a lost one."""
        for store, name in sorted(names):
            text = self._read(store, name)
            if text is None:
                self.ledger.broken.append(f"{store} {name}: no answer in {SETTLED_S_MAX} s")
            elif wrong := self.ledger.wrong(store, name, text):
                self.ledger.broken.append(wrong)

    def _read(self, store: str, name: str) -> str | None:
        deadline = time.monotonic() + SETTLED_S_MAX
        text = None
        while text is None and time.monotonic() < deadline:
            text = self._ask(f"/read/{store}/{name}")
        return text

    def _choice(self) -> tuple[str, str]:
        store = self._random.choice(self.stores)
        return store, f"{store}{self._random.randrange(NAMES_PER_STORE)}"

    def _victims(self) -> list[tuple[str, int]]:
        found = sorted(
            (kind, pid)
            for pid in family(self.platform.process.pid)
            if (kind := victim_kind(command(pid)))
        )
        if self._random.random() < KEEPER_SHARE:
            found = [("platform", self.platform.process.pid)]
        return found

    def _kill(self, kind: str, pid: int) -> None:
        self.kills[kind] = self.kills.get(kind, 0) + 1
        if kind == "platform":
            self.platform.kill()
            self.platform = start(self.platform.state)
            self.begin()
            return
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _write(self, store: str, name: str) -> None:
        value = self.ledger.ask(store, name)
        query = f"?value={value}{'&early' if self.early else ''}"
        status = self._status(f"/write/{store}/{name}{query}")
        if status == TWICE:
            self.ledger.broken.append(f"{store} {name}: two of them at once")
        if status == 200:
            self.ledger.acknowledge(store, name, value)

    def said(self) -> str:
        """Return how far it has come."""
        names = self.ledger.names.values()
        asked = sum(name.attempts for name in names)
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return f"{asked} writes, {len(self.ledger.broken)} wrong; killed: {kills or 'nobody'}"

    def settle(self) -> None:
        """Wait until nothing that was acknowledged is missing, or a deadline; note what is."""
        deadline = time.monotonic() + SETTLED_S_MAX
        missing = self.missing()
        while missing and time.monotonic() < deadline:
            missing = self.missing()
        self.ledger.broken += missing

    def missing(self) -> list[str]:
        """Return what was acknowledged and is not there now."""
        found = []
        for store, name in self.ledger.names:
            if store != "queue":
                text = self._ask(f"/read/{store}/{name}")
                wrong = f"{store} {name}: no answer"
                found.append(wrong if text is None else self.ledger.wrong(store, name, text))
        if "queue" in self.stores and "object" in self.stores:
            heard = (self._ask("/read/queue/all") or "").split("\n")
            found += [f"queue: {text} not heard" for text in sorted(self.ledger.unheard(heard))]
        return [wrong for wrong in found if wrong]

    def _ask(self, path: str) -> str | None:
        try:
            answer = self.platform.get(WORKER, path)
        except httpx.HTTPError:
            return None
        return answer.text if answer.status_code == 200 else None

    def _status(self, path: str) -> int:
        try:
            # Not GET, which the front door may try twice: then a counter counts more than was asked for.
            url = f"http://{WORKER}.{self.platform.domain}{path}"
            return self.platform.fetch(url, "POST").status_code
        except httpx.HTTPError:
            return 0


def victim_kind(line: str) -> str:
    """Return what a process is, of those that may be killed; empty: none of them."""
    kinds: Sequence[tuple[str, str]] = (
        ("kythera.node.agent", "agent"),
        ("kythera.control.server", "api"),
        ("_server", "store"),
        ("weed", "store"),
        ("nats-server", "log"),
        ("workerd", "workerd"),
    )
    return next((kind for mark, kind in kinds if mark in line), "")


def project(folder: Path) -> Path:
    """Write the wrangler project of the worker; return its folder."""
    config = {
        "name": WORKER,
        "main": str(Path(__file__).with_name("worker.js")),
        "compatibility_date": "2026-05-01",
        "kv_namespaces": [{"binding": "KV"}],
        "r2_buckets": [{"binding": "R2"}],
        "d1_databases": [{"binding": "DB", "database_name": "crash"}],
        "durable_objects": {"bindings": [{"name": "COUNTER", "class_name": "Counter"}]},
        "migrations": [{"tag": "v1", "new_sqlite_classes": ["Counter"]}],
        "queues": {
            "producers": [{"binding": "QUEUE", "queue": "crash"}],
            "consumers": [{"queue": "crash", "max_batch_timeout": 1, "max_retries": 100}],
        },
    }
    folder.mkdir(parents=True)
    (folder / "wrangler.json").write_text(json.dumps(config))
    return folder
