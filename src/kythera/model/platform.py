"""One machine's own settings: parsed once by `kythera up`, then read by its processes."""

from msgspec import Struct

from kythera.model.limits import Limits


class Isolation(Struct, frozen=True, kw_only=True):
    """What this host can do to shut cells in, as it was tried at the start."""

    bubblewrap: str = ""
    """The program; empty: cells run without a sandbox."""
    libraries: tuple[str, ...] = ()
    """Files that workerd is linked with."""
    seccomp: str = ""
    seccomp_outward: str = ""
    """File with the filter of system calls; empty: all may be made."""
    uids: bool = False
    """Whether each account's cells have a uid of their own."""
    data_bytes_idle: int = 0
    """What an idle cell counts against RLIMIT_DATA."""
    weaker: tuple[str, ...] = ()
    """What is missing, each in a sentence with what to do."""


class Platform(Struct, frozen=True, kw_only=True):
    """What `kythera up` was told, resolved: addresses are real (`host:port`, no port 0)."""

    account_id: str
    machine: str
    site: str = "local"
    region: str = ""
    world: str = ""
    domain: str = "localhost"
    http: str = "127.0.0.1:8080"
    https: str = ""
    """Empty when no certificate is configured."""
    tls_certificates: str = ""
    """A PEM file or a directory of them (certificate chain + key), for the HTTPS door."""
    api: str = "127.0.0.1:8787"
    mesh: str = ""
    """Where this machine listens for the others (one port, mutual TLS)."""
    mesh_advertised: str = ""
    """Where the others reach it: `mesh`, unless it is behind an address translation."""
    secrets_key: str = ""
    """A file of keys that the operator gives; empty: they are kept in the state folder."""
    egress_allow: tuple[str, ...] = ("public",)
    """What a Worker's outbound fetch may reach: `public` and CIDR blocks the operator added."""
    s3: str = ""
    """Where clients outside speak S3 to R2's buckets; empty: nowhere."""
    r2_endpoint: str = ""
    """An S3 endpoint that keeps R2's objects; empty: this machine's own engine does."""
    r2_key: str = ""
    """The file with its key."""
    isolation: Isolation = Isolation()
    limits: Limits = Limits()
