"""The catalogue: every record of this machine's copy, folded into questions that can be asked.

Pure. `Catalog.apply` takes the log's entries in order; a repeat is a no-op. What it does not
understand it refuses by counting (`unknown`) and keeps what it had.
"""

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from kythera.model.names import DISPATCH
from kythera.model.records import (
    Account,
    Core,
    CronRuns,
    Deployment,
    Domains,
    Heartbeat,
    Incidents,
    Machine,
    Record,
    Resource,
    Routes,
    Schedules,
    Sealing,
    Tail,
    UnknownSchema,
    Version,
    Worker,
    decode_key,
)

Name = tuple[str, str]
"""(account id, worker name)"""
NOT_OF_A_WORKER = ("worker", "resource")
"""Kinds whose keys a worker's name may match, and that do not end with what belongs to it."""


class Catalog:
    """Records by key, with the indexes that deciding code needs."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.unknown: dict[str, str] = {}
        """Keys whose newest value this Kythera cannot read, and why."""
        self._deployments: dict[Name, dict[str, Deployment]] = defaultdict(dict)
        self._versions: dict[Name, dict[str, Version]] = defaultdict(dict)
        self._machines: dict[str, Machine] = {}
        self._schedules: dict[str, Schedules] = {}
        self._tails: dict[Name, dict[str, Tail]] = defaultdict(dict)
        self._dispatchers: dict[str, Version] = {}
        """Few among many versions, and asked for at each plan of the front."""
        self._resources: dict[Name, dict[str, Resource]] = defaultdict(dict)
        """By account and type."""

    def apply(self, key: str, value: bytes | None) -> None:
        """Take one entry of the log: a record's new value, or None for its end."""
        if value is None:
            self.unknown.pop(key, None)
            self._drop(key)
            return
        try:
            record = decode_key(key, value)
        except (UnknownSchema, msgspec.MsgspecError) as error:
            self.unknown[key] = str(error)
            return
        self.unknown.pop(key, None)
        self.records[key] = record
        if isinstance(record, Machine):
            self._machines[key] = record
        if isinstance(record, Schedules):
            self._schedules[key] = record
        if isinstance(record, Version) and any(b.type == DISPATCH for b in record.bindings):
            self._dispatchers[key] = record
        index = self._index_of(record)
        if index is not None:
            index[key] = record

    def _index_of(self, record: Record) -> dict[str, Record] | None:
        index: dict[Name, dict[str, Record]]
        match record:
            case Deployment():
                index = self._deployments  # type: ignore[assignment]
            case Version():
                index = self._versions  # type: ignore[assignment]
            case Tail():
                index = self._tails  # type: ignore[assignment]
            case Resource():
                return self._resources[(record.account, record.type)]  # type: ignore[return-value]
            case _:
                return None
        return index[(record.account, record.worker)]

    def _drop(self, key: str) -> None:
        record = self.records.pop(key, None)
        self._machines.pop(key, None)
        self._schedules.pop(key, None)
        self._dispatchers.pop(key, None)
        if record is not None:
            index = self._index_of(record)
            if index is not None:
                del index[key]

    def accounts(self) -> list[Account]:
        """Return all accounts, by id."""
        found = [r for r in self.records.values() if isinstance(r, Account)]
        return sorted(found, key=lambda account: account.id)

    def machines(self) -> list[Machine]:
        """Return the fleet's machines, by name."""
        return sorted(self._machines.values(), key=lambda machine: machine.name)

    def machine(self, name: str) -> Machine | None:
        """Return one machine, or None."""
        record = self.records.get(f"machine.{name}")
        return record if isinstance(record, Machine) else None

    def core(self) -> Core | None:
        """Return who holds the log, or None while nobody has said so."""
        record = self.records.get("core.log")
        return record if isinstance(record, Core) else None

    def heartbeat(self) -> Heartbeat | None:
        """Return the newest heartbeat, or None."""
        record = self.records.get("heartbeat.fleet")
        return record if isinstance(record, Heartbeat) else None

    def incidents(self) -> list[Incidents]:
        """Return what has befallen workers' cells, by worker and machine."""
        found = (r for r in self.records.values() if isinstance(r, Incidents))
        return sorted(found, key=Incidents.key)

    def sealing(self) -> Sealing | None:
        """Return which key seals secrets, or None while nobody has said so."""
        record = self.records.get("sealing.fleet")
        return record if isinstance(record, Sealing) else None

    def workers(self, account: str | None = None) -> list[Worker]:
        """Return the workers of one account, or of all, by account and name."""
        found = (r for r in self.records.values() if isinstance(r, Worker))
        wanted = (w for w in found if account is None or w.account == account)
        return sorted(wanted, key=lambda worker: (worker.account, worker.name))

    def worker(self, account: str, name: str) -> Worker | None:
        """Return one worker, or None."""
        record = self.records.get(f"worker.{account}.{name}")
        return record if isinstance(record, Worker) else None

    def version(self, account: str, worker: str, version_id: str) -> Version | None:
        """Return one version, or None."""
        record = self.records.get(f"version.{account}.{worker}.{version_id}")
        return record if isinstance(record, Version) else None

    def versions(self, account: str, worker: str) -> list[Version]:
        """Return a worker's versions, newest first."""
        found = self._versions.get((account, worker), {}).values()
        return sorted(found, key=lambda version: -version.number)

    def dispatchers(self) -> list[Version]:
        """Return the versions, serving or not, with bindings to dispatch namespaces, by key."""
        return [self._dispatchers[key] for key in sorted(self._dispatchers)]

    def deployments(self, account: str, worker: str) -> list[Deployment]:
        """Return a worker's deployments, newest first."""
        found = self._deployments.get((account, worker), {}).values()
        return sorted(found, key=lambda deployment: -deployment.number)

    def deployed(self, account: str, worker: str) -> Deployment | None:
        """Return the deployment that holds now, or None."""
        present = self.worker(account, worker)
        found = [
            deployment
            for deployment in self._deployments.get((account, worker), {}).values()
            if not deployment.tag or present is None or deployment.tag == present.tag
        ]
        return max(found, key=lambda deployment: deployment.number, default=None)

    def routes(self, account: str, worker: str) -> Routes:
        """Return a worker's routes (empty when none were set)."""
        record = self.records.get(f"routes.{account}.{worker}")
        return record if isinstance(record, Routes) else Routes(account=account, worker=worker)

    def domains(self, account: str, worker: str) -> Domains:
        """Return a worker's custom domains (empty when none were set)."""
        record = self.records.get(f"domains.{account}.{worker}")
        return record if isinstance(record, Domains) else Domains(account=account, worker=worker)

    def schedules(self, account: str, worker: str) -> Schedules:
        """Return a worker's cron triggers (empty when none were set)."""
        record = self.records.get(f"schedules.{account}.{worker}")
        return (
            record if isinstance(record, Schedules) else Schedules(account=account, worker=worker)
        )

    def all_schedules(self) -> list[Schedules]:
        """Return all workers' cron triggers, by account and worker."""
        return [self._schedules[key] for key in sorted(self._schedules)]

    def cron_runs(self, account: str, worker: str, cron_id: str) -> CronRuns | None:
        """Return what was done about a cron trigger, or None."""
        record = self.records.get(f"cronruns.{account}.{worker}.{cron_id}")
        return record if isinstance(record, CronRuns) else None

    def resources(self, account: str, kind: str) -> list[Resource]:
        """Return an account's resources of one type, by name."""
        found = self._resources.get((account, kind), {}).values()
        return sorted(found, key=lambda resource: (resource.name, resource.id))

    def resource(self, account: str, kind: str, resource_id: str) -> Resource | None:
        """Return one resource, or None."""
        record = self.records.get(f"resource.{account}.{kind}.{resource_id}")
        return record if isinstance(record, Resource) else None

    def all_resources(self, kind: str) -> list[Resource]:
        """Return all accounts' resources of one type, by key."""
        found = [index for (_, of), index in self._resources.items() if of == kind]
        return sorted((r for index in found for r in index.values()), key=Resource.key)

    def tails(self, account: str, worker: str) -> list[Tail]:
        """Return who watches a worker, by id."""
        found = self._tails.get((account, worker), {}).values()
        return sorted(found, key=lambda tail: tail.id)

    def keys_of(self, account: str, worker: str) -> Iterator[str]:
        """Yield the keys of everything that belongs to a worker, the worker itself last."""
        for key in self.records:
            kind, *whose = key.split(".")
            if whose[:2] == [account, worker] and kind not in NOT_OF_A_WORKER:
                yield key
        yield f"worker.{account}.{worker}"
