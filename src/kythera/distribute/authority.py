"""The fleet's own authority: who is a machine of this fleet, said by certificates.

Promises: a certificate names one machine (CN) and the services it may answer for; it is short-lived
and begins a day early, so that clocks may be hours apart. The authority's key lies on core machines
alone (0600). A token's certificate (`join-<id>`) can ask to join and can answer for nothing.
Refuses, with a remedy: names that no machine may have, requests that are not signed by their key,
a folder that has lost a part of its identity. All but `found` is pure: time is an argument.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kythera.distribute import membership
from kythera.ground.clock import Clock
from kythera.ground.files import write_atomically, write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError, SetupError
from kythera.model.membership import Membership
from kythera.model.names import is_machine_name

SERVICES = ("http", "control", "log", "route", "route-odd", "data")
"""What may be asked of a machine's mesh port; servers of the log's odd and even epochs meet apart."""
JOINER = "join-"
"""How the name in a token's certificate begins; no machine's name may."""
EARLY_S = 86_400
"""A certificate is valid from this long before it was made: clocks differ."""
KEY_BYTES = 32
AUTHORITY_LIFE_S = 30 * 365 * 86_400


class Life(NamedTuple):
    """From when until when a certificate holds, in Unix seconds; `begins` without the early day."""

    begins: float
    ends: float


def service_host(service: str) -> str:
    """Return the name by which a service of any machine is asked for (TLS server name)."""
    assert service in SERVICES, service
    return f"{service}.kythera"


def machine_host(name: str) -> str:
    """Return the name that only one machine's certificate has."""
    return f"{name}.kythera"


def fingerprint(ca_pem: bytes) -> str:
    """Return the SHA-256 of a certificate, as 64 hexadecimal digits."""
    return _certificate(ca_pem).fingerprint(hashes.SHA256()).hex()


def make_key() -> bytes:
    """Return a new private key (P-256, PEM)."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def make_request(key_pem: bytes, name: str) -> bytes:
    """Return a request (PEM) for a certificate with this name, signed by its key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    return builder.sign(_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_authority(now: float, mark: str) -> tuple[bytes, bytes]:
    """Return a new authority's certificate and key (PEM). `mark` tells it from others in print."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"Kythera fleet {mark}")
    builder = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def issue(
    ca_cert_pem: bytes, ca_key_pem: bytes, name: str, csr_pem: bytes, now: float, life_s: float
) -> bytes:
    """Return a machine's certificate (PEM): to call others, and to answer for every service.

    The request proves possession of its key and gives nothing else: the name is the argument.
    Raises KytheraError for a bad name or request."""
    refuse_bad_name(name)
    hosts = [machine_host(name), *map(service_host, SERVICES)]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    public_key = _request(csr_pem).public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    ca = _Signer(ca_cert_pem, ca_key_pem)
    return _leaf(ca, name, public_key, hosts, usages, now=now, life_s=life_s)


def issue_joiner(
    ca_cert_pem: bytes, ca_key_pem: bytes, token_id: str, key_pem: bytes, now: float, life_s: float
) -> bytes:
    """Return the certificate (PEM) inside a token: to ask to join, and to answer for nothing."""
    name = JOINER + token_id
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    ca = _Signer(ca_cert_pem, ca_key_pem)
    public_key = _key(key_pem).public_key()
    return _leaf(ca, name, public_key, [machine_host(name)], usages, now=now, life_s=life_s)


def der_of(pem: bytes) -> bytes:
    """Return the first certificate of a PEM file as DER."""
    return _certificate(pem).public_bytes(serialization.Encoding.DER)


def pem_of(der: bytes) -> bytes:
    """Return a certificate as PEM. Raises ValueError when it is none."""
    return _pem(x509.load_der_x509_certificate(der))


def number_of_key(key_pem: bytes) -> bytes:
    """Return the number that a key is, KEY_BYTES long."""
    return _key(key_pem).private_numbers().private_value.to_bytes(KEY_BYTES, "big")


def key_of_number(number: bytes) -> bytes:
    """Return a key (PEM) from its number. Raises ValueError when it is none."""
    return _key_pem(ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1()))


def name_in(pem: bytes) -> str:
    """Return the name in the first certificate of a PEM file."""
    return common_name(_certificate(pem).subject)


def name_in_der(der: bytes) -> str:
    """Return the name in a certificate as TLS hands it over. Raises ValueError for none."""
    return common_name(x509.load_der_x509_certificate(der).subject)


def common_name(subject: x509.Name) -> str:
    """Return the one common name. Raises ValueError when there is not exactly one."""
    (only,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(only.value)


def life_of(pem: bytes) -> Life:
    """Return from when until when the first certificate of a PEM file holds."""
    found = _certificate(pem)
    begins = found.not_valid_before_utc.timestamp() + EARLY_S
    return Life(begins, found.not_valid_after_utc.timestamp())


def renewal_due(life: Life, now: float, share: float) -> bool:
    """Tell whether the given share of a certificate's life has passed.

    A clock far before its beginning renews too: the certificate may have been made by a machine
    whose clock was wrong, and a new one does no harm."""
    return now >= life.begins + (life.ends - life.begins) * share or now < life.begins - EARLY_S


def lacks_services(pem: bytes) -> bool:
    """Tell whether a machine's certificate does not answer for all that may be asked of it: it was
    made by a Kythera that had fewer services."""
    names = _certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    known = names.value.get_values_for_type(x509.DNSName)
    return not {*map(service_host, SERVICES)} <= {*known}


def belongs(certificate_pem: bytes, ca_pem: bytes) -> bool:
    """Tell whether an authority signed a certificate."""
    try:
        _certificate(certificate_pem).verify_directly_issued_by(_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def key_fits(key_pem: bytes, ca_pem: bytes) -> bool:
    """Tell whether a key is the one of an authority's certificate."""
    return _key(key_pem).public_key() == _certificate(ca_pem).public_key()


def key_digest(csr_pem: bytes) -> str:
    """Return what tells a request's key from others: SHA-256 of the public key, hexadecimal."""
    der = (
        _request(csr_pem)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def refuse_bad_name(name: str) -> None:
    """Raise KytheraError for a name that no machine may have."""
    if not is_machine_name(name) or name.startswith(JOINER):
        raise KytheraError(
            f"{name[:80]!r} cannot be a machine's name.",
            remedy="Take 1 to 40 of a-z, 0-9 and -, not - at either end, not beginning with join-:"
            " --machine NAME.",
        )


def found(layout: Layout, name: str, clock: Clock, life_s: float) -> None:
    """Give this machine an identity, if it has none: an authority and a certificate of its own.

    Agent and control process both call it at each start; one of them does the work. A machine that
    joined a fleet has an identity already. Raises SetupError when a part of it was lost."""
    layout.fleet.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(layout):
        _refuse_half_joined(layout)
        if layout.machine_certificate.exists() and layout.ca_certificate.exists():
            _refuse_other_name(layout, name)
            return
        if not layout.ca_certificate.exists():
            _refuse_lost_part(layout)
            ca_pem, key_pem = make_authority(clock.now(), os.urandom(4).hex())
            write_private(layout.ca_key, key_pem)
            write_atomically(layout.ca_certificate, ca_pem)
        if not layout.ca_key.exists():
            raise _lost(layout, layout.machine_certificate.name)
        if membership.read(layout) is None:
            membership.write(layout, Membership(founder=True))
        renew_own(layout, name, clock.now(), life_s)


def renew_own(layout: Layout, name: str, now: float, life_s: float) -> None:
    """Give this machine a new certificate and key by the authority's key in its own folder."""
    key = make_key()
    ca_pem, ca_key = layout.ca_certificate.read_bytes(), layout.ca_key.read_bytes()
    certificate = issue(ca_pem, ca_key, name, make_request(key, name), now, life_s)
    write_private(layout.machine_certificate, certificate + key)


def own_name(layout: Layout) -> str | None:
    """Return the name in this folder's certificate, or None while it has none."""
    try:
        return name_in(layout.machine_certificate.read_bytes())
    except FileNotFoundError:
        return None


def _refuse_other_name(layout: Layout, name: str) -> None:
    certified = own_name(layout)
    if certified != name:
        raise SetupError(
            f"{layout.state} belongs to the machine {certified!r}, not to {name!r}.",
            remedy=f"Start it by its name: --machine {certified}. A machine gets another name by "
            "joining anew with another state folder.",
        )


def _refuse_half_joined(layout: Layout) -> None:
    joining = layout.ca_certificate.exists() and not layout.ca_key.exists()
    if joining and membership.read(layout) is None:
        raise SetupError(
            f"the machine in {layout.state} was about to join a fleet and is not done.",
            remedy="Repeat it with the same token: kythera up --join TOKEN.",
        )


def _refuse_lost_part(layout: Layout) -> None:
    """A new authority beside remains of an old one would split the fleet in two."""
    for path in (layout.membership, layout.machine_certificate):
        if path.exists():
            raise _lost(layout, layout.ca_certificate.name)


def _lost(layout: Layout, name: str) -> SetupError:
    return SetupError(
        f"{layout.fleet / name} is missing, and other parts of this machine's identity are there.",
        remedy="Restore it from a backup; or join anew with an empty state folder: "
        "kythera up --state DIR --join TOKEN.",
    )


@contextlib.contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Hold the folder, so that two processes of one start do not both make an authority."""
    descriptor = os.open(layout.fleet, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Signer:
    """An authority, ready to sign."""

    def __init__(self, ca_cert_pem: bytes, ca_key_pem: bytes) -> None:
        self.certificate = _certificate(ca_cert_pem)
        self.key = _key(ca_key_pem)


def _leaf(
    ca: _Signer,
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    hosts: list[str],
    usages: list[x509.ObjectIdentifier],
    *,
    now: float,
    life_s: float,
) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        _builder(_subject(name), ca.certificate.subject, public_key, now, life_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(names, critical=False)
        .add_extension(signer, critical=False)
    )
    return _pem(builder.sign(ca.key, hashes.SHA256()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    life_s: float,
) -> x509.CertificateBuilder:
    begins = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - timedelta(seconds=EARLY_S))
        .not_valid_after(begins + timedelta(seconds=life_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise KytheraError(
            "a certificate of this fleet cannot be read.", remedy="Restore it from a backup."
        ) from None


def _request(pem: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(pem)
        if request.is_signature_valid and isinstance(
            request.public_key(), ec.EllipticCurvePublicKey
        ):
            return request
    except (ValueError, TypeError, InvalidSignature):
        pass
    raise KytheraError(
        "this is not a request for a certificate, signed by its own P-256 key.",
        remedy="Ask with `kythera up --join TOKEN`; it makes one.",
    )


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "we make no other keys"
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
