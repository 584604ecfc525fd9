"""Clients of a fleet in trouble: they write what nobody else writes, read, and note all of it.

A writer asks a machine drawn by lot, as a person behind a load balancer would, and never repeats
a call: an answer that got lost stays unknown.
"""

import json
import random
from collections.abc import Callable
from typing import Any

import anyio
import httpx

from tests.chaos.history import OK, REFUSED, UNKNOWN, History, Read, Stored, Write, message_of
from tests.fleets import FleetMachine, RunningFleet

CALL_S_MAX = 45.0
"""Longer than anything the API waits for: who hangs up early knows less."""
READ_S_MAX = 10.0
FIELDS = ("code", "secret", "setting")

CODE = """export default {{ fetch(request, env) {{
  return Response.json({{ code: {value}, secret: +env.SECRET, setting: +env.SETTING }});
}} }};"""


def multipart(worker: str, value: int, *, first: bool) -> dict[str, Any]:
    """Return the form of a deploy; all but the first keep what was set before."""
    metadata: dict[str, Any] = {
        "main_module": "w.js",
        "compatibility_date": "2026-01-01",
        "annotations": {"workers/message": message_of(worker, value)},
        "keep_bindings": ["secret_text", "plain_text"],
    }
    if first:
        metadata["bindings"] = [
            {"type": "secret_text", "name": "SECRET", "text": "0"},
            {"type": "plain_text", "name": "SETTING", "text": "0"},
        ]
    return {
        "metadata": (None, json.dumps(metadata), "application/json"),
        "w.js": ("w.js", CODE.format(value=value), "application/javascript+module"),
    }


class Clients:
    """All clients of one run and the history they write."""

    def __init__(self, fleet: RunningFleet, clock: Callable[[], float]) -> None:
        self.history = History()
        self._fleet = fleet
        self._clock = clock
        self._token = fleet.machines[0].token
        self._http = httpx.AsyncClient(trust_env=False, timeout=CALL_S_MAX)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    # -- writing -------------------------------------------------------------------------------

    async def begin(self, worker: str) -> None:
        """Deploy a worker for the first time, on a healthy fleet: all registers are 0."""
        at = self._clock()
        form = multipart(worker, 0, first=True)
        outcome, told = await self._call(self._fleet.machines[0], "PUT", worker, files=form)
        assert outcome == OK, told
        for name in FIELDS:
            self._note(worker, name, 0, at, (outcome, told), "m1", made=name == "code")

    def _note(
        self,
        worker: str,
        name: str,
        value: int,
        began: float,
        result: tuple[str, str],
        machine: str,
        *,
        made: bool = True,
    ) -> None:
        self.history.writes.append(
            Write(
                worker=worker,
                field=name,
                value=value,
                began=began,
                ended=self._clock(),
                outcome=result[0],
                told=result[1],
                machine=machine,
                made_version=made,
            )
        )

    async def write(self, worker: str, dice: random.Random, pause_s: float) -> None:
        """Write one register after the other until cancelled; what is under way is noted."""
        values = dict.fromkeys(FIELDS, 0)
        while True:
            name = dice.choice(FIELDS)
            values[name] += 1
            machine = dice.choice(self._fleet.machines)
            began, result = self._clock(), (UNKNOWN, "cancelled")
            try:
                result = await self._write(machine, worker, name, values[name])
            finally:
                self._note(worker, name, values[name], began, result, machine.name)
            await anyio.sleep(pause_s * dice.uniform(0.5, 1.5))

    async def _write(
        self, machine: FleetMachine, worker: str, name: str, value: int
    ) -> tuple[str, str]:
        if name == "code":
            form = multipart(worker, value, first=False)
            return await self._call(machine, "PUT", worker, files=form)
        if name == "secret":
            body = {"name": "SECRET", "text": str(value), "type": "secret_text"}
            return await self._call(machine, "PUT", f"{worker}/secrets", json=body)
        setting = {"name": "SETTING", "type": "plain_text", "text": str(value)}
        bindings = [{"name": "SECRET", "type": "secret_text"}, setting]
        return await self._call(machine, "PATCH", f"{worker}/settings", json={"bindings": bindings})

    async def _call(
        self, machine: FleetMachine, method: str, path: str, **more: Any
    ) -> tuple[str, str]:
        try:
            answer = await self._ask(machine, method, path, **more)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return REFUSED, f"{machine.name}: {error!r}"
        except httpx.HTTPError as error:
            return UNKNOWN, f"{machine.name}: {error!r}"
        if answer.is_success:
            return OK, ""
        outcome = REFUSED if answer.is_client_error else UNKNOWN
        return outcome, f"{machine.name}: {answer.status_code} {answer.text[:300]}"

    async def _ask(
        self, machine: FleetMachine, method: str, path: str, **more: Any
    ) -> httpx.Response:
        url = f"{machine.api}/accounts/{self._fleet.account_id}/workers/scripts/{path}"
        headers = {"Authorization": f"Bearer {self._token}"}
        return await self._http.request(method, url, headers=headers, **more)

    # -- reading -------------------------------------------------------------------------------

    async def read_on(self, workers: list[str], dice: random.Random, pause_s: float) -> None:
        """Read a worker on a machine, both drawn by lot, until cancelled."""
        while True:
            machine, worker = dice.choice(self._fleet.machines), dice.choice(workers)
            found = await self.read(machine, worker)
            if isinstance(found, Read):
                self.history.reads.append(found)
            await anyio.sleep(pause_s * dice.uniform(0.5, 1.5))

    async def read(self, machine: FleetMachine, worker: str) -> Read | str:
        """Read all registers of a worker on a machine; return why not if it cannot be."""
        headers = {"Host": f"{worker}.{machine.domain}"}
        try:
            with anyio.fail_after(READ_S_MAX):
                answer = await self._http.get(machine.http, headers=headers)
            if answer.status_code != 200:
                return f"{answer.status_code} {answer.text[:200]}"
            return Read(machine=machine.name, worker=worker, at=self._clock(), values=answer.json())
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            return repr(error)

    async def stored(self, machine: FleetMachine, worker: str) -> Stored | str:
        """List a worker's versions as a machine's API tells them."""
        try:
            with anyio.fail_after(READ_S_MAX):
                answer = await self._ask(machine, "GET", f"{worker}/versions?per_page=100")
            items = answer.json()["result"]["items"]
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
            return repr(error)
        versions = tuple(
            (each["number"], each.get("annotations", {}).get("workers/message", ""))
            for each in items
        )
        return Stored(machine=machine.name, worker=worker, versions=versions)
