"""The fleet's authority: what a certificate says, when it is renewed, and how a first start makes it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute import authority, membership
from kythera.distribute.authority import (
    EARLY_S,
    SERVICES,
    Life,
    belongs,
    fingerprint,
    found,
    issue,
    key_digest,
    key_fits,
    key_of_number,
    lacks_services,
    life_of,
    machine_host,
    make_authority,
    make_key,
    make_request,
    name_in,
    number_of_key,
    own_name,
    renewal_due,
    service_host,
)
from kythera.ground.clock import SystemClock
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, SetupError
from kythera.model.membership import Membership
from kythera.model.names import as_machine_name, is_machine_name
from tests.distribute.identities import DAY_S, Authority

NOW = 1_795_000_000.0


def certificate_of(name: str = "pi-3", now: float = NOW) -> tuple[bytes, Authority]:
    """Return a machine's certificate and who made it."""
    authority = Authority(now=now)
    request = make_request(make_key(), "whatever")
    return issue(authority.pem, authority.key, name, request, now, DAY_S), authority


def test_a_certificate_names_its_machine_and_every_service() -> None:
    """Goal: one certificate for all that a machine does. Method: read its names."""
    pem, authority = certificate_of()
    found_names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    hosts = set(found_names.value.get_values_for_type(x509.DNSName))
    assert hosts == {"pi-3.kythera", *(service_host(service) for service in SERVICES)}
    assert name_in(pem) == "pi-3"
    assert machine_host("pi-3") == "pi-3.kythera"
    assert belongs(pem, authority.pem)
    assert not belongs(pem, Authority("other").pem)
    assert not belongs(pem, pem)


def test_a_life_begins_a_day_early_and_ends_in_time() -> None:
    """Goal: clocks may differ. Method: read the life back, and the certificate's own words."""
    pem, _ = certificate_of()
    assert life_of(pem) == Life(NOW, NOW + DAY_S)
    written = x509.load_pem_x509_certificate(pem).not_valid_before_utc.timestamp()
    assert written == NOW - EARLY_S


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "a.b", "-a", "a-", "a" * 41, "join-1", "ä", "a\n"]
)
def test_a_bad_name_gets_no_certificate(name: str) -> None:
    """Goal: a name is a label and no token's. Method: one of each kind of bad name."""
    with pytest.raises(KytheraError, match="cannot be a machine's name"):
        certificate_of(name)


@pytest.mark.parametrize("request_pem", [b"", b"nonsense", make_key()])
def test_what_is_no_request_gets_no_certificate(request_pem: bytes) -> None:
    """Goal: possession of the key is proved. Method: things that are no request."""
    authority = Authority()
    with pytest.raises(KytheraError, match="not a request"):
        issue(authority.pem, authority.key, "a", request_pem, NOW, DAY_S)


def test_a_changed_request_gets_no_certificate() -> None:
    """Goal: nobody asks for another's key. Method: swap the signature of two requests."""
    request = x509.load_pem_x509_csr(make_request(make_key(), "a"))
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    authority = Authority()
    with pytest.raises(KytheraError, match="not a request"):
        issue(authority.pem, authority.key, "a", changed, NOW, DAY_S)


@given(
    begins=st.floats(0, 4e9),
    life=st.floats(60, 4e7),
    share=st.floats(0.1, 0.9),
    passed=st.floats(-0.5, 1.5),
)
def test_a_certificate_is_renewed_when_its_share_has_passed_and_not_before(
    begins: float, life: float, share: float, passed: float
) -> None:
    """Goal: never too late, never in a loop. Method: any life, any moment near it."""
    now = begins + passed * life
    due = renewal_due(Life(begins, begins + life), now, share)
    if passed > share + 0.01:
        assert due
    elif now - begins > -EARLY_S and passed < share - 0.01:
        assert not due


def test_a_fresh_certificate_is_never_due() -> None:
    """Goal: no loop of renewals. Method: the moment after it was made."""
    pem, _ = certificate_of()
    assert not renewal_due(life_of(pem), NOW + 1, 0.5)
    assert renewal_due(life_of(pem), NOW - 2 * EARLY_S, 0.5), "made by a clock far ahead"


def test_a_certificate_of_an_older_kythera_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a machine that was upgraded answers for its new services before half its certificate's
    life has passed. Method: one made when there were fewer."""
    assert not lacks_services(certificate_of()[0])
    monkeypatch.setattr(authority, "SERVICES", authority.SERVICES[:-1])
    older, _ = certificate_of()
    monkeypatch.undo()
    assert lacks_services(older)


@given(st.text(max_size=80))
def test_every_hosts_name_gives_a_machines_name(text: str) -> None:
    """Goal: `kythera up` works on any host. Method: any text for a host name."""
    assert is_machine_name(as_machine_name(text))


def test_a_hosts_own_name_is_kept_where_it_can_be() -> None:
    """Goal: no surprise. Method: names as hosts have them."""
    names = {"pi-3": "pi-3", "Annas_MacBook.local": "annas-macbook", "ip-10-0-0-1": "ip-10-0-0-1"}
    assert {host: as_machine_name(host) for host in names} == names


def test_a_key_is_its_number() -> None:
    """Goal: tokens stay short. Method: there and back."""
    key = make_key()
    assert key_of_number(number_of_key(key)) == key


def test_requests_are_told_apart_by_their_keys() -> None:
    """Goal: the same machine asks again, another does not pass for it. Method: two keys."""
    one, other = make_key(), make_key()
    assert key_digest(make_request(one, "a")) == key_digest(make_request(one, "b"))
    assert key_digest(make_request(one, "a")) != key_digest(make_request(other, "a"))


def test_an_authoritys_key_is_known_by_its_certificate() -> None:
    """Goal: a wrong key is never kept. Method: the right one and another."""
    certificate, key = make_authority(NOW, "x")
    assert key_fits(key, certificate)
    assert not key_fits(make_key(), certificate)


def test_a_first_start_makes_an_identity_and_a_second_keeps_it(tmp_path: Path) -> None:
    """Goal: a lone machine is a fleet of one. Method: start twice."""
    layout = Layout(tmp_path)
    found(layout, "a", SystemClock(), DAY_S)
    before = {path.name: path.read_bytes() for path in layout.fleet.iterdir()}
    found(layout, "a", SystemClock(), DAY_S)
    assert {path.name: path.read_bytes() for path in layout.fleet.iterdir()} == before
    assert membership.read(layout) == Membership(founder=True)
    assert own_name(layout) == "a"
    assert len(fingerprint(layout.ca_certificate.read_bytes())) == 64
    assert stat.S_IMODE(layout.ca_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.machine_certificate.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.fleet.stat().st_mode) == 0o700


def test_two_processes_at_once_make_one_identity(tmp_path: Path) -> None:
    """Goal: agent and API may start together. Method: eight at the same moment."""
    layout = Layout(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: found(layout, "a", SystemClock(), DAY_S), range(8)))
    own, ca = layout.machine_certificate.read_bytes(), layout.ca_certificate.read_bytes()
    assert belongs(own, ca)
    assert key_fits(layout.ca_key.read_bytes(), ca)


@pytest.mark.parametrize("left", ["ca.key", "ca.key ca.pem", "ca.key ca.pem membership.json"])
def test_a_first_start_that_was_cut_short_is_repeated(tmp_path: Path, left: str) -> None:
    """Goal: power may go at any moment. Method: leave what was written first."""
    layout = Layout(tmp_path)
    found(layout, "a", SystemClock(), DAY_S)
    for path in layout.fleet.iterdir():
        if path.name not in left.split():
            path.unlink()
    found(layout, "a", SystemClock(), DAY_S)
    assert belongs(layout.machine_certificate.read_bytes(), layout.ca_certificate.read_bytes())
    assert key_fits(layout.ca_key.read_bytes(), layout.ca_certificate.read_bytes())


@pytest.mark.parametrize("lost", ["ca.pem", "machine.pem"])
def test_a_member_that_lost_a_part_of_its_identity_says_so(tmp_path: Path, lost: str) -> None:
    """Goal: no second authority in a fleet. Method: take a part away."""
    layout = Authority().certify(tmp_path, "a")
    membership.write(layout, Membership(founder=False))
    (layout.fleet / lost).unlink()
    with pytest.raises(SetupError, match=rf"{lost} is missing.*backup"):
        found(layout, "a", SystemClock(), DAY_S)


def test_a_machine_that_was_about_to_join_does_not_start_alone(tmp_path: Path) -> None:
    """Goal: half a member is none. Method: an identity without a membership."""
    layout = Authority().certify(tmp_path, "a")
    with pytest.raises(SetupError, match="Repeat it with the same token"):
        found(layout, "a", SystemClock(), DAY_S)


def test_a_folder_belongs_to_the_machine_it_was_made_for(tmp_path: Path) -> None:
    """Goal: a machine keeps its name. Method: start with another."""
    layout = Layout(tmp_path)
    found(layout, "a", SystemClock(), DAY_S)
    with pytest.raises(SetupError, match="--machine a"):
        found(layout, "b", SystemClock(), DAY_S)


def test_a_membership_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Goal: no guess about who founded the fleet. Method: garbage in the file."""
    layout = Layout(tmp_path)
    layout.fleet.mkdir()
    write_private(layout.membership, b"{")
    with pytest.raises(SetupError, match="cannot be read"):
        membership.read(layout)
