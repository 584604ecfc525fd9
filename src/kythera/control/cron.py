"""Cron triggers: set through the API, called when they are due, tried by hand.

Each machine's control process looks every LOOK_S at what `store.cron_runs` says is due, writes that a
call begins, has this machine's agent make it, and writes how it ended; two machines that want the same
one learn from the log which of them came first. While the log is away nothing is called; what was
missed is made up for.
Refuses an expression that means nothing with Cloudflare's code, and says what is wrong with it.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import httpx
import msgspec
from anyio.abc import TaskGroup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.bodies import json_body, object_body
from kythera.control.caller import sees
from kythera.control.envelope import listed, success
from kythera.control.services import Services, services_of
from kythera.control.store import Change, end, put
from kythera.control.workers import worker_of
from kythera.deploy.documents import as_list, as_moment, as_object, as_text, shown
from kythera.ground.clock import iso
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, Refusal, StoreUnavailable
from kythera.model.records import CronCall, CronEnd, CronRuns, Schedule, Schedules
from kythera.store import cron_runs
from kythera.store.cron import Cron, CronError, parse

INVALID_CRON = 10100
TOO_MANY = 10072
LOOK_S = 1.0
WRITE_TRIES, WRITE_AGAIN_S = 20, 3.0
"""Of the end of a call, while the log is away."""
CALL_AGAIN_S = (1.0, 10.0)
"""Before the next try of a call that could not be made, or whose process died."""
AGAIN = ("notCalled", "crashed")
Begun = tuple[CronRuns, CronCall]
Call = Callable[[str, str, int], Awaitable[tuple[str, str]]]
"""Worker, expression, Unix milliseconds → outcome, and a word about it."""


# -- the API ---------------------------------------------------------------------------------------


def read_schedules(document: Any) -> tuple[str, ...]:
    """Return the expressions that `PUT schedules` asks for. Raises Refusal."""
    fields = document.get("schedules", document) if isinstance(document, dict) else document
    entries = as_list(fields, "the schedules")
    named = [e if isinstance(e, str) else as_object(e, "a schedule").get("cron") for e in entries]
    crons = dict.fromkeys(as_text(cron, "cron") for cron in named)
    for cron in crons:
        understood(cron)
    return tuple(crons)


def understood(cron: str) -> Cron:
    """Read an expression. Raises Refusal with Cloudflare's code, and what is wrong."""
    try:
        return parse(cron)
    except CronError as error:
        raise Refusal(
            INVALID_CRON,
            f"invalid cron string {shown(cron)}: {error}.",
            remedy="Five fields, in UTC: minute hour day month weekday (1-7, Sunday is 1).",
        ) from None


async def schedules(request: Request) -> Response:
    """GET scripts/{name}/schedules."""
    services, worker, _ = worker_of(request)
    found = services.store.catalog().schedules(services.account, worker.name)
    return success(_view(found.schedules))


def _view(found: Sequence[Schedule]) -> dict[str, Any]:
    return {"schedules": [msgspec.to_builtins(schedule) for schedule in found]}


async def put_schedules(request: Request) -> Response:
    """PUT scripts/{name}/schedules: replace all cron triggers of a worker."""
    services, worker, _ = worker_of(request)
    document = await json_body(request, services.platform.limits.json_body_bytes_max)
    wanted = read_schedules(document)

    async def change() -> Schedules:
        worker_of(request)
        catalog = services.store.catalog()
        before = catalog.schedules(services.account, worker.name)
        _refuse_too_many(services, catalog, worker.name, wanted)
        now = iso(services.fleet_now())
        known = {schedule.cron: schedule for schedule in before.schedules}
        fresh = [
            known.get(cron) or Schedule(cron=cron, created_on=now, modified_on=now)
            for cron in wanted
        ]
        after = msgspec.structs.replace(before, schedules=tuple(fresh))
        if after != before:
            await services.store.write([put(after), *_forgotten(catalog, before, wanted)])
        return after

    after = await services.store.settled(f"schedules of {worker.name}", change)
    return success(_view(after.schedules))


def _refuse_too_many(
    services: Services, catalog: Catalog, worker: str, wanted: Sequence[str]
) -> None:
    most = services.platform.limits.cron_triggers_max
    others = sum(
        len(each.schedules)
        for each in catalog.all_schedules()
        if each.account == services.account and each.worker != worker
    )
    if wanted and others + len(wanted) > most:
        raise Refusal(
            TOO_MANY,
            f"There would be {others + len(wanted)} cron triggers in this account; {most} are"
            " allowed (limit cron_triggers_max).",
            remedy="Remove some, or raise the limit: kythera up --limit cron_triggers_max=…",
        )


def _forgotten(catalog: Catalog, before: Schedules, wanted: Sequence[str]) -> list[Change]:
    gone = [s.cron for s in before.schedules if s.cron not in wanted]
    found = [catalog.cron_runs(before.account, before.worker, cron_runs.cron_id(c)) for c in gone]
    return [end(runs.key()) for runs in found if runs is not None]


async def get_crons(request: Request) -> Response:
    """GET kythera/cron: all cron triggers, when each is due next, how its last calls ended."""
    services = services_of(request)
    catalog, now = services.store.catalog(), services.fleet_now()
    found = [
        _told(catalog, schedules, schedule, now)
        for schedules in catalog.all_schedules()
        if schedules.account == services.account and sees(schedules.worker)
        for schedule in schedules.schedules
    ]
    return listed(request, found)


def _told(catalog: Catalog, of: Schedules, schedule: Schedule, now: float) -> dict[str, Any]:
    cron_id = cron_runs.cron_id(schedule.cron)
    runs = catalog.cron_runs(of.account, of.worker, cron_id) or _unrun(of, schedule)
    following = parse(schedule.cron).next_after(now)
    return {
        "worker": of.worker,
        "cron": schedule.cron,
        "created_on": schedule.created_on,
        "next": None if following is None else iso(following),
        "under_way": len(runs.calls),
        "runs": runs.runs,
        "failed": runs.failed,
        "last": [{**msgspec.to_builtins(e), "scheduled_on": iso(e.slot)} for e in runs.last],
    }


async def post_run(request: Request) -> Response:
    """POST kythera/cron/{name}: call a worker's `scheduled` handler now, as if `cron` were due."""
    services, worker, _ = worker_of(request)
    document = await object_body(request, services.platform.limits.json_body_bytes_max)
    known = services.store.catalog().schedules(services.account, worker.name).schedules
    cron = document.get("cron") or (known[0].cron if known else "* * * * *")
    understood(as_text(cron, "cron"))
    now = services.clock.now()
    outcome, detail = await _called(services, worker.name, cron, int(now * 1000))
    took_ms = round((services.clock.now() - now) * 1000)
    told = {"worker": worker.name, "cron": cron, "outcome": outcome, "detail": detail}
    return success({**told, "took_ms": took_ms, "scheduled_on": iso(now)})


def routes(root: str) -> list[Route]:
    """Return the API's endpoints of our own."""
    return [
        Route(f"{root}/cron", get_crons, methods=["GET"]),
        Route(f"{root}/cron/{{name}}", post_run, methods=["POST"]),
    ]


# -- calls -----------------------------------------------------------------------------------------


async def _called(services: Services, worker: str, cron: str, at_ms: int) -> tuple[str, str]:
    """Have the agent call a worker's handler; return the outcome, and a word about it."""
    layout, limits = services.fleet.layout, services.platform.limits
    if layout is None:
        return "notCalled", "this machine has no agent"
    within_s = (limits.event_start_ms + limits.event_wall_ms) / 1000 + 5.0
    transport = httpx.AsyncHTTPTransport(uds=str(layout.events_socket))
    url = f"http://events/{services.account}/{worker}/scheduled"
    try:
        async with httpx.AsyncClient(transport=transport, timeout=within_s) as client:
            answer = await client.post(url, json={"cron": cron, "scheduled_ms": at_ms})
        told = answer.json()
        return str(told["outcome"]), str(told.get("detail", ""))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return "notCalled", f"the agent does not answer ({type(error).__name__})"


def _unrun(of: Schedules, schedule: Schedule) -> CronRuns:
    cron_id = cron_runs.cron_id(schedule.cron)
    return CronRuns(account=of.account, worker=of.worker, id=cron_id, cron=schedule.cron)


class CronLoop:
    """Calls what is due, on this machine."""

    def __init__(self, services: Services, call: Call | None = None) -> None:
        """`call` makes a call, and returns its outcome and a word about it (usually the agent)."""
        self._services = services
        self._call = call or partial(_called, services)
        limits = services.platform.limits
        self._caller = cron_runs.Caller(services.me, services.chance.hex(16), limits)
        self._calls_max = limits.cron_calls_max
        self._calls = 0
        """Under way."""

    async def run(self) -> None:
        """Look for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                with suppress(StoreUnavailable):  # Once the log is back, it is made up for.
                    await self.look(tasks)
                now = self._services.clock.now()
                await anyio.sleep(min(LOOK_S, 60 - now % 60))

    async def look(self, tasks: TaskGroup) -> None:
        """Begin what is due, once."""
        catalog = self._services.store.catalog()
        due = [
            (of, schedule)
            for of in catalog.all_schedules()
            for schedule in of.schedules
            if self._due(catalog, of, schedule) is not None
        ]
        for of, schedule in due:
            if self._calls >= self._calls_max:
                return  # They are looked at again in a moment.
            begun = await self._begin(of, schedule)
            if begun is not None:
                self._calls += 1
                tasks.start_soon(self._finish, begun)

    def _due(self, catalog: Catalog, of: Schedules, schedule: Schedule) -> CronCall | None:
        """Return the call of a trigger that this machine shall begin now."""
        known = catalog.cron_runs(of.account, of.worker, cron_runs.cron_id(schedule.cron))
        runs = known or _unrun(of, schedule)
        created = as_moment(schedule.created_on, "created_on")
        now = self._services.fleet_now()
        if cron_runs.due(runs, created, 0, self._caller, now) is None:
            return None  # Nor is it for anybody else.
        if catalog.deployed(of.account, of.worker) is None:
            return None
        about = f"{of.worker} {schedule.cron}"
        place = cron_runs.turn(self._caller.machine, catalog.machines(), about)
        return cron_runs.due(runs, created, place, self._caller, now)

    async def _begin(self, of: Schedules, schedule: Schedule) -> Begun | None:
        """Write that a call begins; None: somebody else came first, or it is given up."""
        store, limits = self._services.store, self._services.platform.limits
        cron_id = cron_runs.cron_id(schedule.cron)

        async def begin() -> Begun | None:
            catalog = store.catalog()
            current = catalog.schedules(of.account, of.worker)
            call = self._due(catalog, of, schedule) if schedule in current.schedules else None
            if call is None:
                return None
            before = catalog.cron_runs(of.account, of.worker, cron_id) or _unrun(of, schedule)
            after, make = cron_runs.begun(before, call, limits, self._services.fleet_now())
            await store.write([put(after)])
            return (after, call) if make else None

        return await store.settled(f"cron {of.worker} {cron_id}", begin)

    async def _finish(self, begun: Begun) -> None:
        """Make a call, and write down how it ended."""
        runs, call = begun
        services = self._services
        try:
            began = services.clock.monotonic()
            outcome, detail = await self._make(runs, call)
            took_ms = round((services.clock.monotonic() - began) * 1000)
            services.journal.say(
                "cron_called",
                worker=runs.worker,
                cron=runs.cron,
                scheduled_on=iso(call.slot),
                outcome=outcome,
                took_ms=took_ms,
                detail=detail,
            )
            await self._write_end(
                runs,
                call,
                CronEnd(
                    slot=call.slot,
                    machine=self._caller.machine,
                    ended_on=iso(services.fleet_now()),
                    took_ms=took_ms,
                    outcome=outcome,
                    detail=detail[:500],
                ),
            )
        finally:
            self._calls -= 1

    async def _make(self, runs: CronRuns, call: CronCall) -> tuple[str, str]:
        """Call the handler; again, when it was not reached or its process died over it."""
        told = ("notCalled", "")
        for wait_s in (*CALL_AGAIN_S, None):
            told = await self._call(runs.worker, runs.cron, call.slot * 1000)
            if told[0] not in AGAIN or wait_s is None:
                break
            await anyio.sleep(wait_s)
        return told

    async def _write_end(self, runs: CronRuns, call: CronCall, end_: CronEnd) -> None:
        """Write how a call ended, over whatever was written meanwhile; what is not written in the
        end is made again when this process starts anew."""
        store = self._services.store

        async def write() -> None:
            now = store.catalog().cron_runs(runs.account, runs.worker, runs.id)
            if now is not None:  # else the trigger was taken away
                await store.write([put(cron_runs.ended(now, call, end_))])

        for _ in range(WRITE_TRIES):
            try:
                await store.settled(f"cron {runs.worker} {runs.id}", write)
                break
            except KytheraError as error:
                self._services.journal.say("cron_end_not_written", reason=str(error))
            await anyio.sleep(WRITE_AGAIN_S)
