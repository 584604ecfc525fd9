"""The way from plan to plan ends where a reload would, and harms nobody on the way."""

from hypothesis import given, settings

from kythera.route.changes import (
    PAYLOAD_BYTES_MAX,
    Change,
    Reload,
    Replace,
    Retire,
    Say,
    changes,
    escaped,
    payloads,
    without_traffic,
)
from kythera.route.mesh import PeerDoor, Peers, PeerServer, Tunnel
from kythera.route.plan import MAPS, ROUTED, FrontPlan, Server
from tests.route.test_plan import A, planned, simple
from tests.route.worlds import World, steps


class Model:
    """HAProxy's runtime socket, as far as we speak to it; refuses what HAProxy refuses."""

    def __init__(self, plan: FrontPlan) -> None:
        self.maps = {name: list(plan.maps[name].items()) for name in MAPS}
        self.servers = {
            f"{slot}/{server.name}": [server.path, server.weight, True]
            for slot, server in plan.named_servers()
        }

    def take(self, change: Change) -> None:
        """Do one change."""
        match change:
            case Say(text):
                self.say(text)
            case Replace(name, rows):
                self.maps[name] = list(rows)
            case Retire(slot, server):
                for text in without_traffic(change):
                    self.say(text)
                del self.servers[f"{slot}/{server}"]

    def say(self, text: str) -> None:
        """Do one command."""
        line, _, rows = text.partition("\n")
        words = _words(line)
        match words:
            case ["add", "server", name, address, *rest]:
                assert name not in self.servers
                self.servers[name] = [address.removeprefix("unix@"), int(rest[-1]), False]
            case ["enable", "server", name]:
                self.servers[name][2] = True
            case ["set", "weight", name, weight]:
                self.servers[name][1] = int(weight)
            case ["set", "server", name, "state", "maint"]:
                self.servers[name][2] = False
            case ["add", "map", name, "<<"]:
                for row in rows.splitlines():
                    key, _, value = row.partition(" ")
                    self._map(name).append((key, value))
            case ["set", "map", name, key, value]:
                found = self._map(name)
                assert key in dict(found)
                found[:] = [(k, value if k == key else v) for k, v in found]
            case ["del", "map", name, key]:
                assert key in dict(self._map(name))
                self._map(name)[:] = [row for row in self._map(name) if row[0] != key]
            case _:
                raise AssertionError(text)

    def _map(self, file: str) -> list[tuple[str, str]]:
        return self.maps[file.removesuffix(".map")]

    def view(self) -> object:
        """Return what can be compared: rows of unordered maps sorted."""
        maps = {n: rows if n == "routes_wild" else sorted(rows) for n, rows in self.maps.items()}
        return maps, self.servers


def _words(line: str) -> list[str]:
    words = [""]
    characters = iter(line)
    for character in characters:
        if character == "\\":
            words[-1] += next(characters)
        elif character == " ":
            words.append("")
        else:
            assert character != ";", "a semicolon would end the command"
            words[-1] += character
    return words


@given(steps())
@settings(max_examples=100)
def test_any_history_by_socket_ends_where_the_files_are(history: list[World]) -> None:
    """After each plan, the socket's view and a fresh start's are equal."""
    plan = FrontPlan()
    model = Model(plan)
    for world in history:
        new = planned(world, plan)
        way = changes(plan, new)
        if isinstance(way, Reload):
            model = Model(new)
        else:
            for change in way:
                model.take(change)
        assert model.view() == Model(new).view()
        assert changes(new, new) == []
        plan = new


@given(steps())
@settings(max_examples=100)
def test_between_two_commands_no_host_reaches_another_workers_cell(
    history: list[World],
) -> None:
    """At every moment, cells behind a host's slot belong to who owns the host, then or now."""
    plan = FrontPlan()
    for world in history:
        new = planned(world, plan)
        way = changes(plan, new)
        model = Model(plan)
        for change in [] if isinstance(way, Reload) else way:
            model.take(change)
            for host, value in model.maps["hosts"]:
                slot = value.removeprefix(ROUTED)
                owners = {
                    p.owners.get(p.maps["hosts"].get(host, "").removeprefix(ROUTED))
                    for p in (plan, new)
                }
                cells = [name for name in model.servers if name.startswith(f"{slot}/")]
                assert {_worker_of(cell) for cell in cells} <= {_short(o) for o in owners}
        plan = new


def _worker_of(server: str) -> str:
    """Return `a/one` of `s0001/ca-one-0`."""
    name = server.partition("/")[2]
    return name[1] + "/" + name.split("-")[1]


def _short(owner: str | None) -> str:
    """Return `a/one` of `aaaa…/one`."""
    return owner[0] + owner[32:] if owner else ""


PEER = PeerServer(name="p", number=7, address="10.0.0.2:7000", near=0)
TUNNEL = Tunnel(name="t", listen="127.0.0.1:1", peer="p", address="10.0.0.2:7000", service="log")


def test_who_is_let_in_who_serves_and_health_change_by_socket() -> None:
    """What must happen within a second needs no reload."""
    peers = Peers(me="m", machines=(PeerDoor(name="p"), PeerDoor(name="q")))
    fewer = Peers(me="m", draining=True, machines=(PeerDoor(name="q"),))
    world, later = simple("one", "two"), simple("one", "two")
    world.peers, later.peers = peers, fewer
    later.where = dict.fromkeys([(A, "one"), (A, "two")], "away")
    before = planned(world)
    way = changes(before, planned(later, before))
    assert isinstance(way, list)
    texts = [change.text.partition("\n")[0] for change in way if isinstance(change, Say)]
    assert texts == ["add map apart.map <<", "del map members.map p", "add map health.map <<"]


def test_more_slots_a_moved_cell_and_a_flood_of_changes_reload() -> None:
    """What the socket cannot do, or not quickly, is read from the files."""
    here: dict[str, tuple[Server, ...]] = {"s0001": (Server(name="c1", path="/a", weight=1),)}
    there: dict[str, tuple[Server, ...]] = {"s0001": (Server(name="c1", path="/b", weight=1),)}
    many = tuple(Server(name=f"c{n}", path="/a", weight=1) for n in range(300))
    crowd: dict[str, tuple[Server, ...]] = {"s0001": many}
    for old, new in (
        (FrontPlan(), FrontPlan(slots=128)),
        (FrontPlan(servers=here), FrontPlan(servers=there)),
        (FrontPlan(), FrontPlan(servers=crowd)),
        (FrontPlan(), FrontPlan(peers=(PEER,))),
        (FrontPlan(me="a", number=1), FrontPlan(me="a", number=2)),
        (FrontPlan(), FrontPlan(tunnels=(TUNNEL,))),
    ):
        assert isinstance(changes(old, new), Reload)


def test_payloads_fit_haproxys_buffer() -> None:
    """Thousands of rows go in pieces, in order, and none is lost."""
    rows = [(f"host{n}.example.com", "s0001") for n in range(2000)]
    pieces = list(payloads(rows))
    assert len(pieces) > 2
    assert all(len(piece) <= PAYLOAD_BYTES_MAX for piece in pieces)
    assert "".join(pieces) == "".join(f"{key} {value}\n" for key, value in rows)


def test_words_are_escaped_for_the_socket() -> None:
    """Blanks, semicolons and backslashes mean something there."""
    assert escaped("a;b c\\d") == "a\\;b\\ c\\\\d"
    assert _words(escaped("a;b c\\d\"'#<<")) == ["a;b c\\d\"'#<<"]
