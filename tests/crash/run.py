"""Random operations on all stores while cells, stores and the whole platform are killed, from a seed.

Each round (`tests.crash.plan`): a dozen clients write and read at the same time, and meanwhile some
process or other is killed, or stands still for a moment, or the disk is full, or a deploy comes. What was
acknowledged is looked for after each such round, and all of it at the end.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.disks import filled
from tests.crash.ledger import COUNTERS, LATER, MESSAGES, Call, Ledger
from tests.crash.plan import CLIENTS, Client, Hit, Wanted, planned
from tests.crash.victims import victims
from tests.platforms import RunningPlatform, start
from tests.processes import births, wait_until
from tests.wranglers import VERSIONS, Wrangler

WORKER = "crash"
SETTLED_S_MAX = 60.0
POLL_S = 0.05
TWICE, WRITTEN = 599, 200
MINUTE_S = 60
DATE = "2026-05-01"
CODE = Path(__file__).with_name("worker.js")
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])


@dataclass
class Crash:
    """One history."""

    platform: RunningPlatform
    seed: int
    wanted: Wanted = field(default_factory=Wanted)
    planted: str = ""
    """A fault of the worker's: `early`, it acknowledges before it writes; `twice`, objects run twice."""
    prefix: str = ""
    """Of all names: of several histories on one platform each has names of its own."""
    settled_s_max: float = SETTLED_S_MAX
    kills: dict[str, int] = field(default_factory=dict)
    secret: str = ""
    """Where the API has the secret that is changed."""

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.ledger = Ledger(clock=self._now)
        self._generations: dict[tuple[str, int], int] = {}
        self._first_minute = 0
        """The first one whose cron call is waited for; 0: none yet."""

    def _now(self) -> float:
        return time.monotonic() - self._began

    def begin(self, folder: Path) -> None:
        """Deploy the worker, with wrangler alone, and wait until it has all it needs."""
        stores = "/secrets_store/stores"
        store = self.platform.call("POST", stores, json={"name": WORKER}).json()["result"]["id"]
        secret = {"name": "WORD", "value": "1", "scopes": ["workers"]}
        made = self.platform.call("POST", f"{stores}/{store}/secrets", json=[secret])
        self.secret = f"{stores}/{store}/secrets/{made.json()['result'][0]['id']}"
        self.ledger.acknowledge("secret", "secret0", self.ledger.ask("secret", "secret0"))
        for queue in QUEUES:  # wrangler makes those alone that somebody sends to
            assert self.platform.call("POST", "/queues", json={"queue_name": queue}).is_success
        wrangler = Wrangler(NEWEST, self.platform, folder / "home")
        deployed = wrangler.run("deploy", project=project(folder / "project", store))
        assert deployed.code == 0, deployed.text
        self._first_minute = int(time.time() // MINUTE_S) + 1
        self.answers()

    def stop(self) -> None:
        """End the platform: the one that runs now."""
        self.platform.stop()

    def answers(self) -> None:
        """Wait until the worker answers."""
        wait_until(lambda: self._ask("/begin") is not None, "the worker answers", deadline_s=30)

    def run(self, numbers: Iterable[int], *, settles: bool = True) -> None:
        """Go through rounds, and look at the end for everything."""
        for number in numbers:
            self.round(number)
        if settles:
            self.settle()

    def round(self, number: int) -> str:
        """Go through one round; return a line that says what happened."""
        plan, before = planned(self.seed, number, self.wanted), time.monotonic()
        self.ledger.tell("", f"round {number}: {', '.join(map(str, plan.hits)) or 'nobody is hit'}")
        n_history, n_broken = len(self.ledger.history), len(self.ledger.broken)
        with ThreadPoolExecutor(CLIENTS + len(plan.hits)) as threads:
            fills, others = [
                [h for h in plan.hits if (h.how == "fill") is so] for so in (True, False)
            ]
            # Filling a disk takes longer than a client's work: it is full before they begin.
            lasting = [end for hit in fills if (end := self._hit(hit, threads))]
            running = [threads.submit(self._client, client) for client in plan.clients]
            lasting += [end for hit in others if (end := self._hit(hit, threads))]
            touched = {name for one in running for name in one.result()}
            for end in lasting:
                end.result()
        if plan.hits:
            self.look(touched)
        self.ledger.broken += self.ledger.miscounted()
        words = [what for _, _, what in self.ledger.history[n_history:]]
        counts = [sum(mark in word for word in words) for mark in ("is ack", "not ack", "is read")]
        done = "{} acknowledged, {} not, {} read".format(*counts)
        wrong = len(self.ledger.broken) - n_broken
        return (
            f"round {number}: {done}, {wrong} wrong; {', '.join(map(str, plan.hits)) or 'nobody hit'};"
            f" {time.monotonic() - before:.1f} s"
        )

    # -- who writes and reads ------------------------------------------------------------------

    def _client(self, client: Client) -> set[tuple[str, str]]:
        """Do what a client does; return the names that it wrote or read."""
        touched = set()
        for writes in client.operations:
            name = self._name(client)
            touched.add((client.store, name))
            if writes:
                self._write(client.store, name)
            elif client.store not in (*MESSAGES, *LATER):
                acknowledged = self.ledger.names[client.store, name].acknowledged
                text = self._ask(f"/read/{client.store}/{name}")
                if text is not None:
                    self._judge(client.store, name, text, acknowledged)
        return touched

    def _name(self, client: Client) -> str:
        """Return the name that a client writes now: another one when it is over with the last."""
        slot = client.store, client.slot
        while True:
            generation = self._generations.get(slot, 0)
            name = f"{self.prefix}{client.store}{client.slot}"
            name += f".{generation}" if generation else ""
            may_go_on = client.store in (*COUNTERS, *LATER, *MESSAGES)
            if may_go_on or not self.ledger.names[client.store, name].over:
                return name
            self._generations[slot] = generation + 1

    def _judge(self, store: str, name: str, text: str, acknowledged: int | None = None) -> None:
        """Take note of what was read."""
        self.ledger.tell(name, f"{text[:100]!r} is read")
        counts = acknowledged if store in COUNTERS else None
        if wrong := self.ledger.wrong(store, name, text, counts):
            self.ledger.broken.append(wrong)

    def _write(self, store: str, name: str) -> None:
        value, began = self.ledger.ask(store, name), time.monotonic()
        if store == "secret":
            status, text = self._change_secret(value)
        else:
            status, text = self._post(f"/write/{store}/{name}?value={value}&planted={self.planted}")
        if status == TWICE:
            self.ledger.broken.append(f"{store} {name}: two of them at once")
        if status != WRITTEN:
            self.ledger.refuse(store, name, value, f"{status} {text[:200]}")
        elif store in COUNTERS and text != "written":
            count, _, instance = text.partition(" ")
            self.ledger.called(name, Call(began, time.monotonic(), int(count), instance))
        else:
            self.ledger.acknowledge(store, name, value)

    def _change_secret(self, value: int) -> tuple[int, str]:
        try:
            answer = self.platform.call("PATCH", self.secret, json={"value": str(value)})
        except httpx.HTTPError as error:
            return 0, repr(error)
        return answer.status_code, answer.text

    def _ask(self, path: str) -> str | None:
        try:
            answer = self.platform.get(WORKER, path)
        except httpx.HTTPError:
            return None
        return answer.text if answer.status_code == WRITTEN else None

    def _post(self, path: str) -> tuple[int, str]:
        try:
            # Not GET, which the front door may try twice: then a counter counts more than was asked for.
            url = f"http://{WORKER}.{self.platform.domain}{path}"
            answer = self.platform.fetch(url, "POST")
        except httpx.HTTPError as error:
            return 0, repr(error)
        return answer.status_code, answer.text

    # -- who is hit ----------------------------------------------------------------------------

    def _hit(self, hit: Hit, threads: ThreadPoolExecutor) -> "Future[None] | None":
        """Do what is done to somebody; return what ends later."""
        time.sleep(hit.after_ms / 1000)  # part of the history, not a wait
        match hit.how, hit.kind:
            case "deploy", _:
                return threads.submit(self._deploy)
            case "fill", _:
                room = filled(self.platform.state)
                self._befell("the disk is full")
                return threads.submit(self._later, hit.for_ms, "the disk has room", room)
            case _, "platform":
                self._befell("kill platform")
                self.platform.kill()
                self.platform = start(self.platform.state)
                self.answers()
                self.ledger.tell("", "the platform is ready")
                return None
        pids = births(set(victims(self.platform).get(hit.kind, ())))
        if not pids:
            self.ledger.tell("", f"there is no {hit.kind}")
            return None
        pid = max(pids)
        if hit.how == "kill":
            self._befell(f"kill {hit.kind}")
            _signal(pid, signal.SIGKILL, pids[pid])
            return None
        self._befell(f"stop {hit.kind}")
        _signal(pid, signal.SIGSTOP, pids[pid])

        def goes_on() -> None:
            _signal(pid, signal.SIGCONT, pids[pid])

        return threads.submit(self._later, hit.for_ms, f"{hit.kind} goes on", goes_on)

    def _befell(self, what: str) -> None:
        self.kills[what] = self.kills.get(what, 0) + 1
        self.ledger.tell("", what)

    def _later(self, after_ms: int, what: str, do: Callable[[], None]) -> None:
        time.sleep(after_ms / 1000)  # part of the history, too
        do()
        self.ledger.tell("", what)

    def _deploy(self) -> None:
        """Upload the same code as another version; whether that succeeds is not the point."""
        names = (*BINDINGS, "SECRET")
        metadata = {
            "main_module": "worker.js",
            "compatibility_date": DATE,
            "bindings": [{"type": "inherit", "name": name} for name in names],
        }
        module = ("worker.js", CODE.read_text(), "application/javascript+module")
        files = {"metadata": (None, json.dumps(metadata), "application/json"), "worker.js": module}
        try:
            answer = self.platform.call("PUT", f"/workers/scripts/{WORKER}", files=files)
        except httpx.HTTPError as error:
            self._befell(f"a deploy failed: {type(error).__name__}")
        else:
            self._befell(f"a deploy: {answer.status_code}")

    # -- what must be there --------------------------------------------------------------------

    def look(self, names: Iterable[tuple[str, str]]) -> None:
        """See that what was acknowledged is there, as soon as it can be asked for; nothing is being
        written meanwhile, so that no later write can hide a lost one."""
        for store, name in sorted(names):
            if store in MESSAGES or store in LATER:
                continue
            text = self._read(f"/read/{store}/{name}")
            if text is None:
                self.ledger.broken.append(f"{store} {name}: no answer in {SETTLED_S_MAX} s")
            else:
                self._judge(store, name, text)

    def _read(self, path: str) -> str | None:
        deadline = time.monotonic() + SETTLED_S_MAX
        while (text := self._ask(path)) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return text

    def settle(self) -> None:
        """Look for everything; wait, until a deadline, for what comes later."""
        self.look(list(self.ledger.names))
        deadline = time.monotonic() + self.settled_s_max
        while (missing := self.missing()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.ledger.broken += missing

    def missing(self) -> list[str]:
        """Return what was acknowledged, comes later, and has not come yet."""
        found = []
        for store, name in list(self.ledger.names):
            if store in LATER:
                text = self._ask(f"/read/{store}/{name}")
                wrong = f"{store} {name}: no answer"
                found.append(wrong if text is None else self.ledger.wrong(store, name, text))
        for store, queues in MESSAGES.items():
            heard = [self._ask(f"/read/notes/{queue}") or "" for queue in queues]
            unheard = self.ledger.unheard(store, "\n".join(heard).split("\n"))
            found += [
                f"{store} {text.partition('=')[0]}: {text} not heard" for text in sorted(unheard)
            ]
        this_minute = int(time.time() // MINUTE_S)
        minutes = {str(each) for each in range(self._first_minute or this_minute, this_minute)}
        minutes -= set((self._ask("/read/notes/minutes") or "").split("\n"))
        found += [f"cron minutes: {each} was not called" for each in sorted(minutes)]
        return [wrong for wrong in found if wrong]

    def said(self) -> str:
        """Return how far it has come."""
        asked = sum(name.asked for name in self.ledger.names.values())
        hits = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        return f"{asked} writes, {len(self.ledger.broken)} wrong; {hits or 'nobody was hit'}"

    def report(self) -> list[str]:
        """Return what is wrong, each with the history of the name."""
        found = []
        for wrong in dict.fromkeys(self.ledger.broken):
            name = wrong.split(" ", 2)[1].rstrip(":")
            found += [wrong, *self.ledger.told(name)]
        return found


def _signal(pid: int, signum: signal.Signals, born: str) -> None:
    """Send a signal to a process if it is still the same one."""
    if births({pid}).get(pid) == born:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return


QUEUES = ("crash", "crash-bad", "crash-dead")
BINDINGS = ("KV", "R2", "DB", "COUNTER", "BELL", "NOTES", "QUEUE", "BAD")


def project(folder: Path, secrets_store: str) -> Path:
    """Write the wrangler project of the worker; return its folder."""
    classes = {"COUNTER": "Counter", "BELL": "Bell", "NOTES": "Notes"}
    consumer = {"max_batch_timeout": 1, "max_retries": 100}
    config = {
        "name": WORKER,
        "main": str(CODE),
        "compatibility_date": DATE,
        "kv_namespaces": [{"binding": "KV"}],
        "r2_buckets": [{"binding": "R2"}],
        "d1_databases": [{"binding": "DB", "database_name": "crash"}],
        "durable_objects": {
            "bindings": [{"name": name, "class_name": each} for name, each in classes.items()]
        },
        "migrations": [{"tag": "v1", "new_sqlite_classes": list(classes.values())}],
        "queues": {
            "producers": [
                {"binding": "QUEUE", "queue": "crash"},
                {"binding": "BAD", "queue": "crash-bad"},
            ],
            "consumers": [
                {"queue": "crash", **consumer, "dead_letter_queue": "crash-dead"},
                {
                    "queue": "crash-bad",
                    "max_batch_timeout": 1,
                    "max_retries": 1,
                    "dead_letter_queue": "crash-dead",
                },
                {"queue": "crash-dead", **consumer},
            ],
        },
        "triggers": {"crons": ["* * * * *"]},
        "secrets_store_secrets": [
            {"binding": "SECRET", "store_id": secrets_store, "secret_name": "WORD"}
        ],
    }
    folder.mkdir(parents=True)
    (folder / "wrangler.json").write_text(json.dumps(config))
    return folder
