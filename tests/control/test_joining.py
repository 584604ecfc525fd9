"""A machine joins: the side that asks and the side that answers, with real TLS between them and a log
in memory behind."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from kythera.control.join_tokens import create, is_loopback
from kythera.control.peers_join import admit
from kythera.distribute import membership
from kythera.distribute.admission import Refused
from kythera.distribute.authority import belongs, issue, make_key, make_request, name_in, own_name
from kythera.distribute.invitation import Invitation, JoinRequest, decode
from kythera.distribute.join import PENDING_KEY, join, standing
from kythera.distribute.mesh import MeshClient, PeerUnreachable, client_context, context_of
from kythera.distribute.rotation import renew_when_due
from kythera.ground.clock import SystemClock
from kythera.ground.files import memfd_path, write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, Refusal, SetupError
from kythera.model.limits import Limits
from kythera.model.membership import Membership, Peer
from kythera.model.platform import Platform
from kythera.model.records import Machine, Token
from tests.control.fleets import Machines, machines
from tests.control.mesh_doors import SECRETS_KEY, found_fleet, open_door, say_address
from tests.control.world import ACCOUNT, TOKEN
from tests.distribute.identities import DAY_S, Authority

pytestmark = pytest.mark.anyio
LIMITS = Limits(peer_connect_ms=2_000, peer_answer_ms=5_000)
API = f"/client/v4/accounts/{ACCOUNT}/kythera"
FACTS: dict[str, Any] = {"cores": 4, "architecture": "x86_64", "kythera": "1", "workerd": "2"}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Machines]:
    """Return a fleet of two: `a` is core and its mesh door is open; `b` is not core."""
    async with machines(tmp_path, "ab") as made:
        found_fleet(made, tmp_path)
        layout = made["a"].services.fleet.layout
        assert layout is not None
        async with open_door(layout, made["a"].peers_app) as address:
            await say_address(made["a"], address)
            yield made


async def invited(fleet: Machines, by: str = "a", life_s: float = 3_600) -> Invitation:
    """Return what a fresh token carries."""
    return decode((await create(fleet[by].services, life_s)).token)


def settings(name: str, **more: Any) -> Platform:
    """Return the settings of a machine that joins."""
    about = {"site": "berlin", "mesh": "0.0.0.0:7", "mesh_advertised": "10.0.0.9:7", **more}
    return Platform(account_id="", machine=name, limits=LIMITS, **about)


async def asking(layout: Layout, invitation: Invitation, name: str = "c") -> list[str]:
    """Join, and return what was said meanwhile."""
    said: list[str] = []
    now = SystemClock().now()
    await join(layout, invitation, settings(name), FACTS, now=now, say=said.append)
    return said


async def test_a_machine_joins_and_has_all_it_needs(fleet: Machines, tmp_path: Path) -> None:
    """Goal: one line is enough. Method: a fresh folder, then read it and the records."""
    layout = Layout(tmp_path / "new")
    said = await asking(layout, await invited(fleet))
    assert said == [f"Asking a at {_mesh(fleet)} to join as 'c' …"]
    assert own_name(layout) == "c"
    assert belongs(layout.machine_certificate.read_bytes(), layout.ca_certificate.read_bytes())
    assert layout.secrets_key.read_bytes() == SECRETS_KEY
    assert layout.token.read_text() == TOKEN
    assert layout.read_platform().account_id == ACCOUNT
    member = membership.read(layout)
    assert member is not None
    assert (member.founder, member.peers) == (False, (Peer(name="a", mesh=_mesh(fleet)),))
    for path in (layout.secrets_key, layout.token, layout.machine_certificate, layout.membership):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (layout.fleet / PENDING_KEY).exists()
    assert not layout.ca_key.exists()
    record = fleet["b"].catalog.machine("c")
    assert record is not None
    assert (record.site, record.mesh, record.cores, record.core) == (
        "berlin",
        "10.0.0.9:7",
        4,
        False,
    )


def _mesh(fleet: Machines) -> str:
    machine = fleet["a"].catalog.machine("a")
    assert machine is not None
    return machine.mesh


async def test_a_token_is_good_once(fleet: Machines, tmp_path: Path) -> None:
    """Goal: a line that leaked after its use is worth nothing. Method: two folders, one token."""
    invitation = await invited(fleet)
    await asking(Layout(tmp_path / "c"), invitation)
    with pytest.raises(KytheraError, match=r"used up by the machine 'c'.*token create"):
        await asking(Layout(tmp_path / "d"), invitation, "d")
    assert fleet["a"].catalog.machine("d") is None
    assert not Layout(tmp_path / "d").membership.exists()


async def test_of_two_machines_at_the_same_moment_one_joins(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: no race lets two in. Method: two machines, one token, through two core processes."""
    invitation = await invited(fleet)
    outcomes: dict[str, str] = {}

    async def one(name: str, through: str) -> None:
        request = request_of(invitation, name)
        try:
            await admit(fleet[through].services, request)
            outcomes[name] = "joined"
        except Refused as refused:
            outcomes[name] = refused.message

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, "c", "a")
        tasks.start_soon(one, "d", "b")
    refused = [said for said in outcomes.values() if said != "joined"]
    assert len(refused) == 1, outcomes
    assert "is good once" in refused[0]
    joined = [name for name in "cd" if fleet["a"].catalog.machine(name)]
    assert [name for name in "cd" if outcomes[name] == "joined"] == joined


def request_of(invitation: Invitation, name: str, **more: Any) -> JoinRequest:
    """Return what a machine with a key of its own says."""
    about = {"secret": invitation.secret, "mesh": "10.0.0.9:7", **more}
    csr = make_request(make_key(), name).decode()
    return JoinRequest(token=invitation.id, name=name, csr=csr, **about)


async def test_of_two_tokens_for_one_name_one_stays_good(fleet: Machines) -> None:
    """Goal: who loses the race for a name loses no token. Method: two tokens, one name, at once."""
    tokens = [await invited(fleet), await invited(fleet)]
    refused: list[str] = []

    async def one(invitation: Invitation, through: str) -> None:
        try:
            await admit(fleet[through].services, request_of(invitation, "c"))
        except Refused:
            refused.append(invitation.id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, tokens[0], "a")
        tasks.start_soon(one, tokens[1], "b")
    (left,) = refused
    token = fleet["a"].catalog.records[f"token.{left}"]
    assert isinstance(token, Token)
    assert token.used_by == ""


@pytest.mark.parametrize("lost", ["answer", "membership"])
async def test_a_machine_whose_answer_got_lost_asks_again(
    fleet: Machines, tmp_path: Path, lost: str
) -> None:
    """Goal: a crash in the middle can be repeated. Method: lose what was written last, or all."""
    layout, invitation = Layout(tmp_path / "new"), await invited(fleet)
    layout.fleet.mkdir(parents=True)
    key = make_key()
    write_private(layout.fleet / PENDING_KEY, key)
    await asking(layout, invitation)
    layout.membership.unlink()
    if lost == "answer":
        layout.machine_certificate.unlink()
        layout.ca_certificate.unlink()
    write_private(layout.fleet / PENDING_KEY, key)
    await asking(layout, invitation)
    assert own_name(layout) == "c"
    with pytest.raises(KytheraError, match="used up"):
        await asking(Layout(tmp_path / "thief"), invitation)


async def test_a_removed_machine_cannot_come_back_with_its_old_token(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: removed is out. Method: remove it, then repeat with the same key and token."""
    layout, invitation = Layout(tmp_path / "new"), await invited(fleet)
    layout.fleet.mkdir(parents=True)
    key = make_key()
    write_private(layout.fleet / PENDING_KEY, key)
    await asking(layout, invitation)
    await fleet["a"].ok("DELETE", f"{API}/machines/c")
    write_private(layout.fleet / PENDING_KEY, key)
    with pytest.raises(KytheraError, match="no longer, known"):
        await asking(layout, invitation)
    fresh = await invited(fleet)
    assert standing(layout, fresh) == "member"
    await asking(layout, fresh)
    assert fleet["a"].catalog.machine("c") is not None


async def test_a_name_belongs_to_one_machine(fleet: Machines, tmp_path: Path) -> None:
    """Goal: no two machines of one name. Method: join as `b`, which exists."""
    invitation = await invited(fleet)
    with pytest.raises(KytheraError, match=r"a machine 'b' in the fleet already.*--machine"):
        await asking(Layout(tmp_path / "new"), invitation, "b")
    token = fleet["a"].catalog.records[f"token.{invitation.id}"]
    assert isinstance(token, Token)
    assert token.used_by == ""


async def test_an_expired_token_is_refused_by_the_records(fleet: Machines) -> None:
    """Goal: a token ends, also for who changed the line. Method: move the fleet's clock."""
    invitation = await invited(fleet, life_s=60)
    fleet["a"].clock.time += 61
    with pytest.raises(Refused, match="expired"):
        await admit(fleet["a"].services, request_of(invitation, "c"))


async def test_a_token_that_is_past_its_time_is_refused_in_plain_words(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: not "TLS alert". Method: a token whose certificate ended, too."""
    fleet["a"].clock.time -= 3 * DAY_S
    invitation = await invited(fleet, life_s=60)
    with pytest.raises(SetupError, match=r"expired.*token create"):
        await asking(Layout(tmp_path / "new"), invitation)


async def test_a_machine_whose_clock_is_hours_ahead_may_join(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: the fleet's clock decides. Method: by the asking machine's clock the token is over."""
    layout, invitation = Layout(tmp_path / "new"), await invited(fleet)
    ahead = SystemClock().now() + 5 * 3_600
    await join(layout, invitation, settings("c"), FACTS, now=ahead, say=lambda _: None)
    assert own_name(layout) == "c"


async def test_with_an_expired_tokens_certificate_the_door_does_not_answer(
    fleet: Machines,
) -> None:
    """Goal: TLS itself ends with the token. Method: its certificate, without the first check."""
    fleet["a"].clock.time -= 3 * DAY_S
    invitation = await invited(fleet, life_s=60)
    with pytest.raises(PeerUnreachable):
        await ask_health(fleet, invitation)


async def ask_health(fleet: Machines, invitation: Invitation) -> None:
    """Ask with a token's certificate."""
    layout = fleet["b"].services.fleet.layout
    assert layout is not None
    with memfd_path(invitation.ca_pem) as ca, memfd_path(invitation.credentials) as own:
        async with MeshClient(layout, LIMITS, lambda peer: context_of(ca, own, peer)) as client:
            await client.request("a", _mesh(fleet), "GET", "/health")


async def test_a_tokens_certificate_cannot_answer_for_a_machine(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: who holds a token is nobody's server. Method: open a door with its certificate."""
    invitation = await invited(fleet)
    false = Layout(tmp_path / "false")
    false.fleet.mkdir(parents=True)
    write_private(false.ca_certificate, invitation.ca_pem)
    write_private(false.machine_certificate, invitation.credentials)
    here = fleet["b"].services.fleet.layout
    assert here is not None
    name = f"join-{invitation.id}"
    async with open_door(false, fleet["a"].peers_app) as address:
        async with MeshClient(here, LIMITS) as client:
            with pytest.raises(PeerUnreachable, match="certificate is refused"):
                await client.request(name, address, "GET", "/health")


async def test_what_answers_must_be_the_fleet_of_the_token(fleet: Machines, tmp_path: Path) -> None:
    """Goal: nobody joins a stranger. Method: the token's address leads to another fleet."""
    stranger = Authority("other").certify(tmp_path / "stranger", "a")
    invitation = await invited(fleet)
    async with open_door(stranger, fleet["a"].peers_app) as address:
        moved = msgspec.structs.replace(invitation, peers=(Peer(name="a", mesh=address),))
        with pytest.raises(SetupError, match="not the fleet that made this token"):
            await asking(Layout(tmp_path / "new"), moved)


async def test_a_fleet_that_cannot_be_reached_is_said_with_its_addresses(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: an operator knows what to open. Method: a token whose only peer is gone."""
    invitation = await invited(fleet)
    async with open_door(Authority().certify(tmp_path / "x", "x"), fleet["a"].app) as address:
        pass
    gone = msgspec.structs.replace(invitation, peers=(Peer(name="a", mesh=address),))
    with pytest.raises(SetupError, match=rf"a at {address}.*port must be open"):
        await asking(Layout(tmp_path / "new"), gone)


async def test_a_folder_of_another_fleet_does_not_join(fleet: Machines, tmp_path: Path) -> None:
    """Goal: no fleet is lost by a wrong folder. Method: the folder of a founder."""
    layout = Authority("other").certify(tmp_path / "own", "c")
    membership.write(layout, Membership(founder=True))
    with pytest.raises(SetupError, match=r"another fleet.*--state"):
        standing(layout, await invited(fleet))


async def test_a_founder_that_was_removed_may_join_again(fleet: Machines, tmp_path: Path) -> None:
    """Goal: no machine is shut out for ever. Method: a founder's folder of the same fleet."""
    layout = fleet["a"].services.fleet.layout
    assert layout is not None
    assert standing(layout, await invited(fleet)) == "member"


async def test_a_folder_that_joined_with_the_token_needs_nothing(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: `--join` may stay in a unit file. Method: look at the folder after success."""
    layout, invitation = Layout(tmp_path / "new"), await invited(fleet)
    assert standing(layout, invitation) == "stranger"
    await asking(layout, invitation)
    assert standing(layout, invitation) == "joined"


async def test_a_tokens_certificate_opens_nothing_but_joining(fleet: Machines) -> None:
    """Goal: a line that leaks tells nothing. Method: ask for anything else with it."""
    mesh = fleet["b"].services.fleet.mesh
    mesh._me = "join-x"  # type: ignore[attr-defined]
    for path in ("/health", "/status", "/authority", "/records", "/join/x"):
        answer = await mesh.request("a", "", "GET", path)
        assert (answer.status_code, "nothing else" in answer.text) == (403, True)


async def test_a_token_and_anothers_certificate_do_not_go_together(fleet: Machines) -> None:
    """Goal: each certificate asks for its own token. Method: two tokens, crossed."""
    one, other = await invited(fleet), await invited(fleet)
    layout = fleet["b"].services.fleet.layout
    assert layout is not None
    body = msgspec.json.encode(request_of(other, "c"))
    with memfd_path(one.ca_pem) as ca, memfd_path(one.credentials) as own:
        async with MeshClient(layout, LIMITS, lambda peer: context_of(ca, own, peer)) as client:
            answer = await client.request("a", _mesh(fleet), "POST", "/join", content=body)
    assert answer.status_code == 403
    assert "do not belong together" in answer.text


async def test_any_machine_makes_a_token_by_asking_a_core_machine(
    fleet: Machines, tmp_path: Path
) -> None:
    """Goal: one computer. Method: ask `b`, which has no authority, then join with its token."""
    made = await fleet["b"].ok("POST", f"{API}/tokens", {})
    assert decode(made["token"]).peers == (Peer(name="a", mesh=_mesh(fleet)),)
    listed = await fleet["b"].ok("GET", f"{API}/tokens")
    assert [(each["id"], each["state"]) for each in listed] == [(made["id"], "open")]
    await asking(Layout(tmp_path / "new"), decode(made["token"]))
    (used,) = await fleet["b"].ok("GET", f"{API}/tokens")
    assert (used["state"], used["used_by"]) == ("used", "c")


async def test_a_join_that_meets_a_machine_without_the_authority_is_passed_on(
    fleet: Machines,
) -> None:
    """Goal: a core that changed hands does not matter. Method: ask `b` as the token's holder."""
    invitation = await invited(fleet)
    body = msgspec.json.encode(request_of(invitation, "c"))
    mesh = fleet["a"].services.fleet.mesh
    mesh._me = f"join-{invitation.id}"  # type: ignore[attr-defined]
    answer = await mesh.request("b", "", "POST", "/join", content=body)
    assert answer.status_code == 200, answer.text
    assert name_in(msgspec.json.decode(answer.content)["certificate"].encode()) == "c"


async def test_a_revoked_token_is_refused(fleet: Machines, tmp_path: Path) -> None:
    """Goal: what was printed by mistake is taken back. Method: revoke, then join."""
    invitation = await invited(fleet)
    await fleet["a"].ok("DELETE", f"{API}/tokens/{invitation.id}")
    with pytest.raises(KytheraError, match="not, or no longer, known"):
        await asking(Layout(tmp_path / "new"), invitation)
    status, _, _ = await fleet["a"].refused("DELETE", f"{API}/tokens/{invitation.id}")
    assert status == 404


async def test_a_wrong_secret_is_refused(fleet: Machines) -> None:
    """Goal: the record alone is no token. Method: its id with another secret."""
    invitation = await invited(fleet)
    with pytest.raises(Refused, match="not, or no longer, known"):
        await admit(fleet["a"].services, request_of(invitation, "c", secret="guess"))


@pytest.mark.parametrize("life_s", [0, -1, 1e9, float("nan")])
async def test_a_life_without_sense_is_refused(fleet: Machines, life_s: float) -> None:
    """Goal: no token without end. Method: lives outside the limits."""
    with pytest.raises(Refusal, match="cannot live"):
        await create(fleet["a"].services, life_s)


async def test_a_fleet_on_loopback_says_that_others_cannot_join(fleet: Machines) -> None:
    """Goal: no surprise on the second machine. Method: the door of this test is on loopback."""
    made = await fleet["a"].ok("POST", f"{API}/tokens", {})
    assert "only machines on this host can join" in made["warning"]
    assert is_loopback("[::1]:7")
    assert is_loopback("0.0.0.0:7")
    assert not is_loopback("192.168.1.2:7")


async def test_long_dead_tokens_go_when_another_is_made(fleet: Machines) -> None:
    """Goal: tokens do not pile up. Method: make one, wait three days, make another."""
    first = await invited(fleet)
    fleet["a"].clock.time += 3 * DAY_S
    second = await invited(fleet)
    listed = await fleet["a"].ok("GET", f"{API}/tokens")
    assert [each["id"] for each in listed] == [second.id]
    assert first.id != second.id


async def test_a_machine_renews_at_a_core_machine(fleet: Machines, tmp_path: Path) -> None:
    """Goal: certificates are renewed in time. Method: one that is past half its life."""
    layout = Layout(tmp_path / "new")
    await asking(layout, await invited(fleet))
    peers = (Peer(name="a", mesh=_mesh(fleet)),)
    before, now = layout.machine_certificate.read_bytes(), SystemClock().now()
    async with MeshClient(layout, LIMITS) as client:
        assert not await renew_when_due(layout, client, peers, LIMITS, now)
        assert layout.machine_certificate.read_bytes() == before
        later = now + LIMITS.certificate_life_s * 0.6
        assert await renew_when_due(layout, client, peers, LIMITS, later)
    after = layout.machine_certificate.read_bytes()
    assert after != before
    assert name_in(after) == "c"
    client_context(layout)


async def test_who_was_removed_is_not_renewed(fleet: Machines, tmp_path: Path) -> None:
    """Goal: removed is out for good. Method: remove, then ask with the old certificate."""
    layout = Layout(tmp_path / "new")
    await asking(layout, await invited(fleet))
    await fleet["a"].ok("DELETE", f"{API}/machines/c")
    before = layout.machine_certificate.read_bytes()
    later = SystemClock().now() + LIMITS.certificate_life_s * 0.6
    async with MeshClient(layout, LIMITS) as client:
        with pytest.raises(KytheraError, match="no machine of this fleet"):
            await renew_when_due(
                layout, client, (Peer(name="a", mesh=_mesh(fleet)),), LIMITS, later
            )
    assert layout.machine_certificate.read_bytes() == before


async def test_only_core_machines_are_given_the_authority(fleet: Machines) -> None:
    """Goal: the key is where the log is. Method: `b`, which is not core, asks."""
    answer = await fleet["b"].services.fleet.mesh.request("a", "", "GET", "/authority")
    assert (answer.status_code, b"PRIVATE KEY" in answer.content) == (403, False)


def test_a_certificate_is_for_the_name_that_is_given_alone() -> None:
    """Goal: a request cannot choose. Method: a request that names another machine."""
    authority = Authority()
    key = make_key()
    certificate = issue(authority.pem, authority.key, "c", make_request(key, "a"), 0, DAY_S)
    assert name_in(certificate) == "c"


def test_records_of_older_machines_are_read() -> None:
    """Goal: fields come later. Method: a machine without the newer ones."""
    assert msgspec.json.decode(b'{"name":"x"}', type=Machine).token == ""
