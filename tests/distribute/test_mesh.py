"""Speaking to other machines: real TLS on loopback, with certificates of one fleet and of others."""

import json
import ssl
from pathlib import Path

import anyio
import httpx
import pytest

from kythera.distribute import membership
from kythera.distribute.authority import make_key
from kythera.distribute.mesh import Directory, MeshClient, PeerUnreachable, open_tls
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.limits import Limits
from kythera.model.membership import Membership, Peer
from tests.distribute.identities import DAY_S, Authority, door

pytestmark = pytest.mark.anyio
LIMITS = Limits(peer_connect_ms=2_000, peer_answer_ms=2_000)


@pytest.fixture
def fleet() -> Authority:
    """Return a fleet's authority."""
    return Authority()


async def ask(layout: Layout, peer: str, address: str) -> httpx.Response:
    """Ask a machine for its health."""
    async with MeshClient(layout, LIMITS) as client:
        return await client.request(peer, address, "GET", "/health")


async def test_a_machine_of_the_fleet_is_answered(fleet: Authority, tmp_path: Path) -> None:
    """Goal: two machines speak. Method: one request over TLS both ways."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "b", "b")
    async with door(there) as opened:
        response = await ask(here, "b", opened.address)
    assert (response.status_code, response.text) == (200, "ok")
    assert opened.heard[0].startswith(b"GET /health HTTP/1.1\r\nhost: control.kythera\r\n")


async def test_another_machine_at_the_address_hears_nothing(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: an address that moved leaks nothing. Method: b is wanted, c answers."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "c", "c")
    async with door(there) as opened:
        with pytest.raises(PeerUnreachable, match="it is the machine 'c'"):
            await ask(here, "b", opened.address)
    assert opened.heard == []


async def test_a_machine_of_another_fleet_is_refused(fleet: Authority, tmp_path: Path) -> None:
    """Goal: two fleets never mix. Method: equal names, another authority."""
    here = fleet.certify(tmp_path / "a", "a")
    there = Authority("other").certify(tmp_path / "b", "b")
    async with door(there) as opened:
        with pytest.raises(PeerUnreachable, match="its certificate is refused"):
            await ask(here, "b", opened.address)
    assert opened.heard == []


async def test_a_stranger_gets_no_answer(fleet: Authority, tmp_path: Path) -> None:
    """Goal: nothing answers a stranger. Method: trust the fleet, show another's certificate."""
    stranger = Authority("other").certify(tmp_path / "a", "a")
    stranger.ca_certificate.write_bytes(fleet.pem)
    there = fleet.certify(tmp_path / "b", "b")
    async with door(there) as opened:
        with pytest.raises(PeerUnreachable):
            await ask(stranger, "b", opened.address)
    assert opened.heard == []


async def test_without_a_certificate_nothing_answers(fleet: Authority, tmp_path: Path) -> None:
    """Goal: TLS both ways. Method: shake hands without a certificate of our own."""
    there = fleet.certify(tmp_path / "b", "b")
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(there.ca_certificate)
    async with door(there) as opened, MeshClient(there, LIMITS, lambda _: bare) as client:
        with pytest.raises(PeerUnreachable):
            await client.request("b", opened.address, "GET", "/health")
    assert opened.heard == []


@pytest.mark.parametrize("expired", ["a", "b"])
async def test_an_expired_certificate_is_refused_on_either_side(
    fleet: Authority, tmp_path: Path, expired: str
) -> None:
    """Goal: a life ends. Method: a certificate of a day, three days old."""
    age = {expired: 3 * DAY_S}
    here = fleet.certify(tmp_path / "a", "a", age_s=age.get("a", 0))
    there = fleet.certify(tmp_path / "b", "b", age_s=age.get("b", 0))
    async with door(there) as opened:
        with pytest.raises(PeerUnreachable):
            await ask(here, "b", opened.address)
    assert opened.heard == []


async def test_a_certificate_of_a_clock_hours_ahead_is_accepted(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: clocks may differ. Method: certificates made ten hours in the future."""
    here = fleet.certify(tmp_path / "a", "a", age_s=-36_000)
    there = fleet.certify(tmp_path / "b", "b", age_s=-36_000)
    async with door(there) as opened:
        assert (await ask(here, "b", opened.address)).status_code == 200


async def test_a_renewed_certificate_is_used_from_the_next_request_on(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: rotation needs no restart. Method: replace the file between two requests."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "b", "b")
    async with door(there) as opened, MeshClient(here, LIMITS) as client:
        await client.request("b", opened.address, "GET", "/")
        Authority("other").certify(tmp_path / "a", "a")
        with pytest.raises(PeerUnreachable):
            await client.request("b", opened.address, "GET", "/")
        fleet.certify(tmp_path / "a", "a")
        await client.request("b", opened.address, "GET", "/")


async def test_a_streamed_answer_arrives_in_pieces(fleet: Authority, tmp_path: Path) -> None:
    """Goal: long answers need no memory. Method: read one through `stream`."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "b", "b")
    async with door(there) as opened, MeshClient(here, LIMITS) as client:
        async with client.stream("b", opened.address, "GET", "/blobs/x") as response:
            assert b"".join([part async for part in response.aiter_bytes()]) == b"ok"


async def test_nobody_at_the_address_is_said_with_name_and_address(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: an operator knows which machine. Method: a door that has closed."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "b", "b")
    async with door(there) as opened:
        pass
    with pytest.raises(PeerUnreachable, match=f"'b' at {opened.address}"):
        await ask(here, "b", opened.address)


async def test_a_raw_stream_is_open_to_the_wanted_machine_alone(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: `open_tls` verifies as requests do. Method: once with the right name, once not."""
    here, there = fleet.certify(tmp_path / "a", "a"), fleet.certify(tmp_path / "b", "b")
    directory = Directory(here)
    async with door(there) as opened:
        stream = await open_tls(here, directory, "b", opened.address, "log", 2_000)
        async with stream:
            await stream.send(b"INFO")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        with pytest.raises(PeerUnreachable, match="it is the machine 'b'"):
            await open_tls(here, directory, "c", opened.address, "log", 2_000)


async def test_a_peer_that_says_nothing_is_given_up(fleet: Authority, tmp_path: Path) -> None:
    """Goal: every wait has a deadline. Method: a door that takes connections and is silent."""
    here = fleet.certify(tmp_path / "a", "a")
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener:
        address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        with pytest.raises(PeerUnreachable):
            await open_tls(here, Directory(here), "b", address, "log", 50)


def test_links_come_before_records_and_records_before_memory(
    fleet: Authority, tmp_path: Path
) -> None:
    """Goal: simulated links win. Method: each source in turn, read anew when it changes."""
    here = fleet.certify(tmp_path / "a", "a")
    directory = Directory(here)
    with pytest.raises(PeerUnreachable, match="nobody knows where"):
        directory.address("b")
    membership.write(here, Membership(founder=False, peers=(Peer(name="b", mesh="10.0.0.1:1"),)))
    assert directory.address("b") == "10.0.0.1:1"
    assert directory.address("b", "10.0.0.2:2") == "10.0.0.2:2"
    write_private(here.links, json.dumps({"b": "127.0.0.1:3"}).encode())
    assert directory.address("b", "10.0.0.2:2") == "127.0.0.1:3"
    write_private(here.links, json.dumps({"b": "127.0.0.1:4"}).encode())
    assert directory.address("b", "10.0.0.2:2") == "127.0.0.1:4"
    here.links.unlink()
    assert directory.address("b", "10.0.0.2:2") == "10.0.0.2:2"


async def test_an_identity_that_does_not_fit_is_said(fleet: Authority, tmp_path: Path) -> None:
    """Goal: a damaged folder is named. Method: a certificate beside another's key."""
    here = fleet.certify(tmp_path / "a", "a")
    whole = here.machine_certificate.read_bytes()
    write_private(here.machine_certificate, whole[: whole.index(b"-----BEGIN PRIV")] + make_key())
    with pytest.raises(Exception, match="certificate cannot be used"):
        await ask(here, "b", "127.0.0.1:1")
