"""The keys for secrets, kept up on every machine; and one rotation driven to its end by the machine
that does what one at a time has to do.

Promises: a key is in this machine's file before any record names it, and leaves the file when no
record needs it any more; a key that is missing here is fetched from a machine that has it, core
machines first, over the mesh, by whose certificates a machine is known. Everything is decided by
`deploy/resealing.py` from the records and from what the machines say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import anyio
import msgspec

from kythera.control.key_answers import ask_all, ask_for_key
from kythera.control.services import Services
from kythera.control.store import Change, Store, put
from kythera.deploy import resealing
from kythera.deploy.keyring import Keyring
from kythera.deploy.resealing import Held, Sealed, Step
from kythera.deploy.shared_secrets import resealed
from kythera.distribute.admission import core_peers
from kythera.distribute.archive import is_restoring
from kythera.ground.clock import iso
from kythera.ground.key_files import make_key
from kythera.model.catalog import Catalog
from kythera.model.envelope import key_id, mark_of
from kythera.model.errors import Conflict, KytheraError, Refusal, StoreUnavailable
from kythera.model.records import Binding, Resource, Sealing

LOOK_S = 1.0
RETRY_S_MAX = 10.0
SCOPE = "sealing.fleet"
RESEALED_AT_ONCE = 50
"""Versions written before their machine's copy has to show them."""
NOTHING_NEWER = 10318
RESTS = Step("rest")


def sealing_key(store: Store) -> str:
    """Return the id of the key to seal with; empty: the first one. May be called in any thread.

    Raises StoreUnavailable while this machine's copy of the records is being made."""
    record = store.shown(SCOPE)
    if isinstance(record, Sealing):
        return record.active
    if not store.is_whole():
        raise StoreUnavailable("This machine does not know yet which key seals secrets.")
    return ""


def sealing_now(catalog: Catalog, keyring: Keyring) -> Sealing:
    """Return which key seals, also while nobody has written it down."""
    return catalog.sealing() or Sealing(active=keyring.ids()[0])


def is_first(services: Services, catalog: Catalog) -> bool:
    """Tell whether this machine does what one core machine at a time has to do."""
    core = {peer.name for peer in core_peers(catalog)}
    if services.me not in core:
        return False
    beat = catalog.heartbeat()
    return core == {services.me} or (beat is not None and beat.machine == services.me)


async def rotate(services: Services) -> Sealing:
    """Have all secrets sealed with another key. Answered at once; one that is under way is told."""
    keyring = services.keyring
    assert keyring is not None, "the control process has keys"

    async def wish() -> Sealing:
        before = sealing_now(services.store.catalog(), keyring)
        if before.wanted or before.retiring:
            return before
        if services.fleet.layout is not None and is_restoring(services.fleet.layout):
            raise StoreUnavailable("What was restored is still being written; try again.")
        await _refuse_given_elsewhere(services, keyring)
        key = _next_key(keyring, before)
        after = resealing.begun(before, key_id(key), iso(services.fleet_now()))
        await services.store.write([put(after)])
        services.journal.say("key_wanted", key=after.wanted)
        return after

    return await services.store.settled(SCOPE, wish)


def _next_key(keyring: Keyring, before: Sealing) -> bytes:
    """Return the key that comes next, which is kept here already: the operator's last one, or one
    that an attempt cut short has left, or a new one."""
    files = keyring.files
    if files.given is not None:
        newest = files.read_given()[-1]
        if key_id(newest) == before.active:
            raise Refusal(
                NOTHING_NEWER,
                f"The last key in {files.given} is the one that seals already ({before.active}).",
                status=409,
                remedy="Add a new one there, on every machine whose keys you give: "
                f"head -c 32 /dev/urandom | base64 >> {files.given}",
            )
        return newest
    own = {key_id(key): key for key in files.read_own()}
    spare = resealing.spare(own, before)
    key = own[spare[-1]] if spare else make_key()
    keyring.add(key)
    return key


async def _refuse_given_elsewhere(services: Services, keyring: Keyring) -> None:
    """A key made here could not come to a machine whose operator gives its keys."""
    if keyring.files.given is not None:
        return
    machines = await ask_all(services, keyring)
    given = sorted(name for name, held in machines.items() if held.given)
    if given:
        raise Refusal(
            NOTHING_NEWER,
            f"The keys of {', '.join(given)} are given by the operator.",
            status=409,
            remedy=f"Add a new one to the file there, and rotate on {given[0]}.",
        )


@dataclass
class KeyTender:
    """What one machine remembers between two looks."""

    services: Services
    keyring: Keyring
    wanted: str = ""
    wanted_since: float = 0.0
    clean_seq: int | None = None
    """Since when this machine's copy shows nothing that is sealed with a retiring key."""
    hopeless: frozenset[str] = frozenset()
    """Keys of versions with a secret that no key opens: it was damaged or its key is lost."""
    step: Step = RESTS
    decide: Callable[..., Step] = resealing.next_step

    async def tend(self) -> None:
        """Look once: fetch what is missing, drop what is not needed, bring a rotation on."""
        catalog = self.services.store.catalog()
        self.keyring.look()
        sealing = catalog.sealing()
        if sealing is None:
            self.step = RESTS
            return
        await self._fetch_missing(catalog, sealing)
        await self._drop_unneeded()
        if is_first(self.services, catalog):
            await self._advance()
        else:
            self.clean_seq = None

    async def _fetch_missing(self, catalog: Catalog, sealing: Sealing) -> None:
        missing = sorted(
            key for key in resealing.needed(catalog, sealing) if not self.keyring.holds(key)
        )
        if missing and self.keyring.files.given is None:
            for key in missing:
                await self._fetch(key)

    async def _fetch(self, key: str) -> None:
        """Ask everybody in turn, core machines first: who had it made may be no core machine."""
        services = self.services
        catalog = services.store.catalog()
        core = {peer.name for peer in core_peers(catalog)}
        for machine in sorted(catalog.machines(), key=lambda m: (m.name not in core, m.name)):
            if machine.name == services.me:
                continue
            try:
                found = await ask_for_key(services, machine, key)
            except KytheraError:
                continue
            # Under the turn in which keys are dropped, and only if it is still of use.
            async with services.store.exclusive(SCOPE):
                self.keyring.add(found)
            services.journal.say("key_fetched", key=key, by=machine.name)
            return

    async def _drop_unneeded(self) -> None:
        """Nobody names a key between its making and the record that says so: both are one turn."""
        services, files = self.services, self.keyring.files
        async with services.store.exclusive(SCOPE):
            catalog = services.store.catalog()
            sealing = catalog.sealing()
            unread = any(key.startswith("version.") for key in catalog.unknown)
            if sealing is None or unread or not services.store.is_whole():
                return
            if not self.keyring.holds(sealing.active):
                return
            for key in files.keep_only(resealing.needed(catalog, sealing)):
                services.journal.say("key_dropped", key=key)

    # -- the one that drives -------------------------------------------------------------------

    async def _advance(self) -> None:
        services = self.services
        catalog = services.store.catalog()
        sealing = catalog.sealing()
        assert sealing is not None, "seen before"
        others = self._sealed_otherwise(catalog, sealing)
        if others or sealing.wanted:
            self.clean_seq = None
        elif self.clean_seq is None:
            # The very records that were looked through: who reads as far seals with the new key.
            self.clean_seq = services.store.read_seq()
        if sealing.wanted != self.wanted:
            self.wanted, self.wanted_since = sealing.wanted, anyio.current_time()
        under_way = bool(sealing.wanted or sealing.retiring)
        machines = await ask_all(services, self.keyring) if under_way else {}
        self.step = self._next(sealing, machines, catalog, len(others))
        await self._do(sealing)

    def _sealed_otherwise(self, catalog: Catalog, sealing: Sealing) -> list[Sealed]:
        if sealing.wanted:
            return []
        found = resealing.sealed_otherwise(catalog, sealing.active)
        return [record for record in found if record.key() not in self.hopeless]

    def _next(
        self, sealing: Sealing, machines: dict[str, Held], catalog: Catalog, others: int
    ) -> Step:
        layout = self.services.fleet.layout
        if layout is not None and is_restoring(layout):
            return Step("wait", {self.services.me: "is writing what was restored"})
        if any(key.startswith(("version.", "resource.")) for key in catalog.unknown):
            return Step("wait", {self.services.me: "cannot read a record of a newer Kythera"})
        return self.decide(
            sealing,
            machines,
            me=self.services.me,
            core={peer.name for peer in core_peers(catalog)},
            wanted_for_s=anyio.current_time() - self.wanted_since,
            absent_s=self.services.platform.limits.key_absent_s,
            others_sealed=others,
            clean_seq=self.clean_seq,
        )

    async def _do(self, sealing: Sealing) -> None:
        match self.step.kind:
            case "activate":
                await self._write(resealing.activated(sealing), "key_activated")
            case "replace":
                await self._replace(sealing)
            case "reseal":
                await self._reseal(sealing)
            case "drop":
                await self._let_drop(sealing)

    async def _write(self, after: Sealing, event: str) -> None:
        """Write the next record over the one that was decided by; another's came first otherwise."""
        await self.services.store.write([put(after)])
        self.services.journal.say(event, active=after.active, retiring=list(after.retiring))

    async def _replace(self, sealing: Sealing) -> None:
        """The only machine with the new key is lost, before anything was sealed with it."""
        if self.keyring.files.given is not None:
            return
        async with self.services.store.exclusive(SCOPE):
            key = _next_key(self.keyring, sealing)
            now = iso(self.services.fleet_now())
            await self._write(resealing.begun(sealing, key_id(key), now), "key_replaced")

    async def _reseal(self, sealing: Sealing) -> None:
        store = self.services.store
        found = self._sealed_otherwise(store.catalog(), sealing)
        changes: list[Change] = []
        for record in found[:RESEALED_AT_ONCE]:
            after = self._resealed(record)
            if after is None:
                self.hopeless |= {record.key()}
                self.services.journal.say("secret_lost", level="error", version=record.key())
            else:
                changes.append(put(after, store.guard_of(record.key())))
        if changes:
            await store.write(changes)
            self.services.journal.say("secrets_resealed", versions=len(changes))

    def _resealed(self, record: Sealed) -> Sealed | None:
        try:
            if isinstance(record, Resource):
                return resealed(record, self.keyring)
            place = f"{record.account}/{record.worker}"
            bindings = tuple(
                _resealed(binding, f"{place}/{binding.name}", self.keyring)
                for binding in record.bindings
            )
        except StoreUnavailable:
            raise  # this machine has not been given the active key yet
        except KytheraError:
            return None
        return msgspec.structs.replace(record, bindings=bindings)

    async def _let_drop(self, sealing: Sealing) -> None:
        """All have settled; what they wrote before they did is looked at once more."""
        store = self.services.store
        await store.caught_up(await store.newest())
        if self._sealed_otherwise(store.catalog(), sealing):
            self.clean_seq = None
            return
        await self._write(resealing.dropped(sealing), "key_retired")


def _resealed(binding: Binding, place: str, keyring: Keyring) -> Binding:
    if binding.type != "secret_text":
        return binding
    text = keyring.open(binding.fields["sealed"], place)
    fields = {"mark": mark_of(binding.fields), "sealed": keyring.seal(text, place)}
    return msgspec.structs.replace(binding, fields=fields)


async def keep_keys(services: Services, tender: KeyTender | None = None) -> None:
    """Tend the keys until cancelled."""
    assert services.keyring is not None, "the control process has keys"
    tender = tender or KeyTender(services, services.keyring)
    pause_s = LOOK_S
    while True:
        try:
            await tender.tend()
            pause_s = LOOK_S if tender.step.kind in ("rest", "wait") else 0.0
        except Conflict:
            pause_s = LOOK_S
        except (KytheraError, OSError) as error:
            if pause_s < RETRY_S_MAX <= pause_s * 2:
                services.journal.say("keys_not_kept", level="warning", reason=str(error))
            pause_s = min(max(pause_s, LOOK_S) * 2, RETRY_S_MAX)
        await anyio.sleep(pause_s)
