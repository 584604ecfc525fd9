"""From one plan to the next: the runtime socket's commands, or the verdict that a reload is due.

Pure. Order is the promise: a cell is added before anything leads to it, and nothing leads to a
cell any more before it is taken away, so that a request at any moment between two commands finds
a cell of its own worker. `Reload` is the answer when slots run out and when so much changes that
reading the files anew is quicker, and when
other machines or the tunnels to them are not the same: their TLS is read from files alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kythera.route.plan import MAPS, ORDERED_MAPS, FrontPlan, Rows, Server
from kythera.route.render import server_words

COMMANDS_MAX = 400
PAYLOAD_BYTES_MAX = 8 * 1024
"""HAProxy reads a command and its rows into one buffer of 16 KiB."""

Place = tuple[str, Server]


@dataclass(frozen=True)
class Say:
    """One command; anything but silence or `New server registered.` in answer is a failure."""

    text: str


@dataclass(frozen=True)
class Replace:
    """All rows of a map, at once: a version of the map is prepared, filled, committed."""

    map: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Retire:
    """A cell that takes no request any more; deleted as soon as its connections are gone."""

    slot: str
    server: str


@dataclass(frozen=True)
class Reload:
    """The files must be read anew, because of `why`."""

    why: str


Change = Say | Replace | Retire


def changes(old: FrontPlan, new: FrontPlan) -> list[Change] | Reload:
    """Return the way from `old` to `new`."""
    if old.slots != new.slots:
        return Reload(f"{new.slots} slots instead of {old.slots}")
    if (old.me, old.number, old.peers) != (new.me, new.number, new.peers):
        return Reload(f"the fleet has {len(new.peers)} other machines to forward to")
    if old.tunnels != new.tunnels:
        return Reload(f"{len(new.tunnels)} tunnels to other machines")
    before = {server.name: (slot, server) for slot, server in old.named_servers()}
    after = {server.name: (slot, server) for slot, server in new.named_servers()}
    for name in sorted(before.keys() & after.keys()):
        if _address(before[name]) != _address(after[name]):
            return Reload(f"cell {name} moved")
    found = [*_server_changes(before, after)]
    for name in MAPS:
        found += _map_changes(name, old.maps[name], new.maps[name])
    found += [Retire(slot, name) for name, (slot, _) in before.items() if name not in after]
    if len(found) > COMMANDS_MAX:
        return Reload(f"{len(found)} changes")
    return found


def _address(place: Place) -> tuple[str, str]:
    slot, server = place
    return slot, server.path


def _server_changes(before: dict[str, Place], after: dict[str, Place]) -> Iterator[Change]:
    for name, (slot, server) in after.items():
        if name not in before:
            words = server_words(server)
            yield Say(f"add server {slot}/{name} {escaped(f'unix@{server.path}')} {words}")
            yield Say(f"enable server {slot}/{name}")
    for name, (slot, server) in after.items():
        if name in before and before[name][1].weight != server.weight:
            yield Say(f"set weight {slot}/{name} {server.weight}")


def _map_changes(name: str, old: Rows, new: Rows) -> Iterator[Change]:
    if name in ORDERED_MAPS:
        if list(old.items()) != list(new.items()):
            yield Replace(name, tuple(new.items()))
        return
    added = [(key, value) for key, value in new.items() if key not in old]
    for rows in payloads(added):
        yield Say(f"add map {name}.map <<\n{rows}")
    for key, value in new.items():
        if key in old and old[key] != value:
            yield Say(f"set map {name}.map {escaped(key)} {escaped(value)}")
    for key in old:
        if key not in new:
            yield Say(f"del map {name}.map {escaped(key)}")


def payloads(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Yield rows as text, in pieces that HAProxy's command buffer can hold."""
    piece = ""
    for key, value in rows:
        line = f"{key} {value}\n"
        if piece and len(piece) + len(line) > PAYLOAD_BYTES_MAX:
            yield piece
            piece = ""
        piece += line
    if piece:
        yield piece


def escaped(word: str) -> str:
    """Return a word for the runtime socket, whose blanks and semicolons mean something."""
    return "".join(c if c.isalnum() or c in "_./:-@" else f"\\{c}" for c in word)


def without_traffic(retired: Retire) -> tuple[str, str]:
    """Return the commands that stop new requests to a cell; those inside go on."""
    name = f"{retired.slot}/{retired.server}"
    return f"set weight {name} 0", f"set server {name} state maint"
