"""Servers that speak TLS at once or when asked, with certificates that are good or not.

Each port answers what it is told under TLS with `echo ` and the same. A port of STARTTLS says `S` to
the first six bytes, in clear, and expects TLS then, as PostgreSQL does.
"""

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "public.test"
KINDS = ("good", "wrong", "expired", "self", "unknown")
TLS = dict(zip(KINDS, range(8443, 8448), strict=True))
STARTTLS = dict(zip(KINDS, range(5432, 5437), strict=True))
PUSHY = 5440
"""Says `S`, and bytes in clear right after it, as somebody on the way would put them there."""
PUSHED = b"+injected"
ASKED = b"please"
PEER_S_MAX = 30.0


@dataclass(frozen=True)
class Issuer:
    """Signs certificates."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey


def authority(common_name: str) -> tuple[Issuer, bytes]:
    """Return an authority and its own certificate."""
    issuer = Issuer(_named(common_name), ec.generate_private_key(ec.SECP256R1()))
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return issuer, _certificate(issuer, issuer.name, issuer.key, None, constraints)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    issuer: Issuer,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    host: str | None,
    constraints: x509.BasicConstraints,
    days: int = 2,
) -> bytes:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - datetime.timedelta(days=30))
        .not_valid_after(until)
        .add_extension(constraints, critical=True)
    )
    if host is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(issuer.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _context(folder: Path, kind: str, trusted: Issuer) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    host, days = ("other.test" if kind == "wrong" else NAME), (-1 if kind == "expired" else 2)
    issuer = trusted
    if kind == "self":
        issuer = Issuer(_named(host), key)
    elif kind == "unknown":
        issuer = Issuer(_named("nobody"), ec.generate_private_key(ec.SECP256R1()))
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    certificate = _certificate(issuer, _named(host), key, host, leaf, days)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{kind}.pem"
    path.write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def serve_tls(folder: Path, address: str = "0.0.0.0") -> Path:  # noqa: S104
    """Serve all ports for as long as the process lives; return the file of the one authority that
    is to be trusted."""
    trusted, pem = authority("Kythera's tests")
    bundle = folder / "authorities.pem"
    bundle.write_bytes(pem)
    for kind in KINDS:
        context = _context(folder, kind, trusted)
        _listen(address, TLS[kind], context, opening=b"")
        _listen(address, STARTTLS[kind], context, opening=b"S")
    _listen(address, PUSHY, _context(folder, "good", trusted), opening=b"S" + PUSHED)
    return bundle


@contextmanager
def self_signed(folder: Path) -> Iterator[int]:
    """Serve one port of loopback with TLS that nobody trusts; yields the port."""
    issuer, _ = authority("nobody")
    with _listen("127.0.0.1", 0, _context(folder, "self", issuer), opening=b"") as sock:
        yield sock.getsockname()[1]
        sock.shutdown(socket.SHUT_RDWR)


def _listen(address: str, port: int, context: ssl.SSLContext, opening: bytes) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(100)

    def accept() -> None:
        while True:
            try:
                peer, _ = sock.accept()
            except OSError:
                return
            words = (peer, context, opening)
            threading.Thread(target=_answer, args=words, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return sock


def _answer(peer: socket.socket, context: ssl.SSLContext, opening: bytes) -> None:
    peer.settimeout(PEER_S_MAX)
    with peer:
        try:
            if opening:
                said = peer.recv(100)
                while len(said) < len(ASKED):
                    said += peer.recv(100)
                peer.sendall(opening)
            with context.wrap_socket(peer, server_side=True) as secure:
                while said := secure.recv(65536):
                    secure.sendall(b"echo " + said)
        except OSError:
            return
