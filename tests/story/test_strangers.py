"""Who is not a machine of the fleet gets nothing from its mesh ports: no certificate, another
fleet's, a token's, a removed machine's.

Three machines as they are; the strangers speak to their ports byte for byte.
"""

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kythera.distribute.authority import SERVICES, service_host
from kythera.distribute.invitation import Invitation, decode
from kythera.distribute.mesh import context_of
from kythera.ground.files import memfd_path
from kythera.ground.layout import Layout
from kythera.ground.sockets import parse_address
from tests.distribute.identities import Authority
from tests.fleets import FleetMachine, RunningFleet, running_fleet
from tests.platforms import COMMAND, clean_environment

pytestmark = [pytest.mark.real, pytest.mark.story]
ASK_S = 5.0
OUT_S_MAX = 5.0
GET = b"GET /%s HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n"
CODE = 'export default { fetch() { return new Response("secret") } }'
Answer = bytes | None
"""What a service said; None: it did not even speak TLS with us to the end."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningFleet]:
    """Return three machines with a worker."""
    with running_fleet(3, 2) as started:
        started.upload("hello", CODE)
        started.wait_for("hello", "secret")
        yield started


def mesh(machine: FleetMachine) -> tuple[str, int]:
    """Return where a machine's mesh port is."""
    return parse_address(Layout(machine.state).read_platform().mesh)


def heard(machine: FleetMachine, words: bytes, within_s: float = ASK_S) -> bytes:
    """Say something on a mesh port as plain bytes; return all that comes back."""
    with socket.create_connection(mesh(machine), timeout=within_s) as plain:
        with contextlib.suppress(OSError):
            plain.sendall(words)
            plain.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: plain.recv(4096), b""))
    return b""


def asked(machine: FleetMachine, context: ssl.SSLContext, service: str, path: bytes) -> Answer:
    """Ask a service of a machine over TLS."""
    with socket.create_connection(mesh(machine), timeout=ASK_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=service_host(service)) as secured:
                secured.sendall(GET % path)
                return b"".join(iter(lambda: secured.recv(4096), b""))
        except OSError:
            return None


def context_for(layout: Layout, ca: Path) -> ssl.SSLContext:
    """Return the TLS settings of who has this layout's certificate and trusts `ca`."""
    return context_of(ca, layout.machine_certificate)


def ca_of(machine: FleetMachine) -> Path:
    """Return the fleet's authority, as a stranger may know it: it is public."""
    return Layout(machine.state).ca_certificate


def authority_of(fleet: RunningFleet) -> Authority:
    """Return the fleet's own authority, as only a thief of its key has it."""
    layouts = [Layout(machine.state) for machine in fleet.machines]
    holder = next(layout for layout in layouts if layout.ca_key.exists())
    authority = Authority()
    authority.pem, authority.key = holder.ca_certificate.read_bytes(), holder.ca_key.read_bytes()
    return authority


def test_a_machine_of_the_fleet_is_answered(fleet: RunningFleet) -> None:
    """Goal: what follows refuses strangers and not everybody. Method: ask as a machine."""
    one, other = fleet.machines[:2]
    own = context_for(Layout(other.state), ca_of(one))
    assert (asked(one, own, "control", b"health") or b"").startswith(b"HTTP/1.1 200")
    assert b"secret" in (asked(one, own, "http", b"") or b"")
    holder = next(each for each in fleet.machines if Layout(each.state).ca_key.exists())
    peer = next(each for each in fleet.machines if each is not holder)
    answer = asked(holder, context_for(Layout(peer.state), ca_of(one)), "log", b"")
    assert (answer or b"").startswith(b"INFO {")


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.0\r\n\r\n", b"INFO {}\r\n", bytes(300)])
def test_plain_words_are_not_answered(fleet: RunningFleet, words: bytes) -> None:
    """Goal: the port speaks TLS or nothing. Method: HTTP, NATS and zeros as plain bytes."""
    for machine in fleet.machines:
        assert b"HTTP" not in heard(machine, words)


@pytest.mark.parametrize("service", SERVICES)
def test_without_a_certificate_no_service_answers(fleet: RunningFleet, service: str) -> None:
    """Goal: TLS both ways. Method: no certificate; another fleet's of the same name."""
    for machine in fleet.machines:
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.load_verify_locations(ca_of(machine))
        assert not asked(machine, bare, service, b"health")


@pytest.mark.parametrize("service", SERVICES)
def test_another_fleets_certificate_opens_nothing(
    fleet: RunningFleet, service: str, tmp_path: Path
) -> None:
    """Goal: fleets do not mix. Method: another authority's certificate with a member's name."""
    for machine in fleet.machines:
        foreign = Authority("other").certify(tmp_path / machine.name, fleet.machines[0].name)
        assert not asked(machine, context_for(foreign, ca_of(machine)), service, b"health")


@pytest.mark.parametrize("service", SERVICES)
def test_an_expired_certificate_opens_nothing(
    fleet: RunningFleet, service: str, tmp_path: Path
) -> None:
    """Goal: a life ends. Method: the fleet's own authority, a certificate of three days ago."""
    old = authority_of(fleet).certify(tmp_path, fleet.machines[0].name, age_s=3 * 86_400)
    for machine in fleet.machines:
        assert not asked(machine, context_for(old, ca_of(machine)), service, b"health")


def test_a_name_that_the_fleet_does_not_know_opens_nothing(
    fleet: RunningFleet, tmp_path: Path
) -> None:
    """Goal: a certificate is not enough. Method: the fleet's own authority, a name of nobody."""
    nobody = authority_of(fleet).certify(tmp_path, "nobody")
    for machine in fleet.machines:
        for service in SERVICES:
            assert not asked(machine, context_for(nobody, ca_of(machine)), service, b"health")


def run(machine: FleetMachine, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command against a machine."""
    argv = [*COMMAND, *words, "--state", str(machine.state)]
    return subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def fresh(machine: FleetMachine) -> tuple[str, Invitation]:
    """Return a fresh token: its line, and what is in it."""
    line = run(machine, "token", "create").stdout.strip()
    return line, decode(line)


def test_a_tokens_certificate_opens_joining_alone(fleet: RunningFleet) -> None:
    """Goal: a line that leaks tells nothing. Method: every service, every path but /join."""
    _, invitation = fresh(fleet.machines[1])
    with memfd_path(invitation.ca_pem) as ca, memfd_path(invitation.credentials) as own:
        context = context_of(ca, own)
        for machine in fleet.machines:
            for service in ("http", "log", "route"):
                assert not asked(machine, context, service, b"")
            for path in (b"health", b"status", b"records?after=0", b"authority"):
                answer = asked(machine, context, "control", path) or b""
                assert b" 200 " not in answer.partition(b"\r\n")[0]


def joining(line: str, state: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """Try to join; a machine that is let in is stopped again at once."""
    argv = [*COMMAND, "up", "--state", str(state), "--machine", name, "--json", "--join", line]
    doors = ("--http", "127.0.0.1:0", "--api", "127.0.0.1:0")
    with subprocess.Popen(
        [*argv, *doors],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(argv, process.returncode, first + out, err)


def test_a_token_is_used_up_and_a_removed_machine_is_out(
    fleet: RunningFleet, tmp_path: Path
) -> None:
    """Goal: the whole life of a stranger. Method: join, try the token again, remove, ask on."""
    asked_machine = fleet.machines[1]
    line, _ = fresh(asked_machine)
    layout = Layout(tmp_path / "new")
    let_in = joining(line, layout.state, "newcomer")
    assert let_in.returncode == 0, let_in.stderr
    assert json.loads(let_in.stdout)["account_id"] == fleet.account_id
    refused = joining(line, tmp_path / "second", "second")
    assert refused.returncode == 1
    assert "used up by the machine 'newcomer'" in refused.stderr
    assert not Layout(tmp_path / "second").membership.exists()
    own = context_for(layout, layout.ca_certificate)
    for machine in fleet.machines:
        assert (asked(machine, own, "control", b"health") or b"").startswith(b"HTTP/1.1 200")
    removed = run(asked_machine, "machine", "remove", "newcomer", "--yes")
    assert removed.returncode == 0, removed.stderr
    end = time.monotonic() + OUT_S_MAX
    inside = {machine.name for machine in fleet.machines}
    while inside and time.monotonic() < end:
        inside = {
            machine.name
            for machine in fleet.machines
            if any(asked(machine, own, service, b"health") for service in SERVICES)
        }
    assert not inside, f"still let in after {OUT_S_MAX} s by {inside}"
    layout.membership.unlink()
    again = joining(line, layout.state, "newcomer")
    assert again.returncode == 1
    assert "no longer, known to the fleet" in again.stderr
