"""Where things lie in a state folder, and how the settings in it are read.

Unix socket paths have 107 bytes at most; when the state folder's own path is too long, sockets
move to a private folder (0700) below the system's temporary one, named by the state's hash.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kythera.model.errors import SetupError
from kythera.model.platform import Platform

RUN_PATH_BYTES_MAX = 64
"""What is left of HAProxy's 97 (it binds `PATH.PID.tmp` first; the kernel takes 107) after
`/haproxy-services-relay.sock`, and some to spare."""


@dataclass(frozen=True)
class Layout:
    """The names of all files below one `--state DIR`."""

    state: Path

    @property
    def run(self) -> Path:
        """Folder of this start's sockets."""
        own = self.state.resolve() / "run"
        if len(os.fsencode(own)) <= RUN_PATH_BYTES_MAX:
            return own
        mark = hashlib.sha256(os.fsencode(own)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"kythera-{os.getuid()}-{mark}"

    @property
    def platform(self) -> Path:
        """The settings `kythera up` resolved (`Platform`, JSON)."""
        return self.state / "platform.json"

    @property
    def token(self) -> Path:
        """The API token, 0600."""
        return self.state / "token"

    @property
    def secrets_key(self) -> Path:
        """The keys that seal secrets, 0600; not there when the operator gives them."""
        return self.state / "secrets.key"

    @property
    def shared(self) -> Path:
        """What the fleet's machines know of each other's doors without being told, 0600 (JSON)."""
        return self.state / "shared.json"

    @property
    def workerd_choice(self) -> Path:
        """Which workerd the operator wants (JSON); not there: the packaged one."""
        return self.state / "workerd.json"

    @property
    def workerd_used(self) -> Path:
        """Which workerd has proved itself here (JSON)."""
        return self.state / "workerd-used.json"

    @property
    def workerd_kept(self) -> Path:
        """Second names of the binaries in use, by their marks."""
        return self.state / "workerd"

    @property
    def blobs(self) -> Path:
        """Content-addressed code and assets."""
        return self.state / "blobs"

    @property
    def asset_trees(self) -> Path:
        """Blobs laid out as directories for workerd's asset service, one for each manifest."""
        return self.state / "assets"

    @property
    def copy(self) -> Path:
        """This machine's LMDB copy of the records."""
        return self.state / "copy"

    @property
    def served(self) -> Path:
        """Which deployments the front door serves (derived)."""
        return self.state / "served"

    @property
    def nats(self) -> Path:
        """nats-server's configuration and store."""
        return self.state / "nats"

    @property
    def log_address(self) -> Path:
        """Where the log is reached and with which password, 0600 (JSON)."""
        return self.state / "nats" / "log.json"

    @property
    def fleet(self) -> Path:
        """What makes this machine one of its fleet (0700)."""
        return self.state / "fleet"

    @property
    def ca_certificate(self) -> Path:
        """The fleet's own authority (PEM)."""
        return self.fleet / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key, on core machines alone, 0600 (PEM)."""
        return self.fleet / "ca.key"

    @property
    def machine_certificate(self) -> Path:
        """This machine's certificate and key in one file, 0600 (PEM)."""
        return self.fleet / "machine.pem"

    @property
    def membership(self) -> Path:
        """How this machine came into its fleet, and whom to ask first (JSON)."""
        return self.fleet / "membership.json"

    @property
    def links(self) -> Path:
        """Other addresses for peers, by name (JSON): for fleets whose links are simulated."""
        return self.fleet / "links.json"

    @property
    def mesh_socket(self) -> Path:
        """Where the control process answers other machines; HAProxy alone connects."""
        return self.run / "mesh.sock"

    @property
    def haproxy(self) -> Path:
        """HAProxy's configuration, maps and the plan they were made from."""
        return self.state / "haproxy"

    @property
    def keeper_socket(self) -> Path:
        """Where the agent speaks to the keeper (SOCK_SEQPACKET)."""
        return self.run / "keeper.sock"

    @property
    def status_socket(self) -> Path:
        """Connect and read one JSON document: the agent's status."""
        return self.run / "agent.sock"

    @property
    def tail_socket(self) -> Path:
        """Where observed cells POST their trace events (the control API listens)."""
        return self.run / "tail.sock"

    @property
    def haproxy_socket(self) -> Path:
        """HAProxy's runtime socket."""
        return self.run / "haproxy.sock"

    @property
    def front_log(self) -> Path:
        """Where HAProxy tells of requests that failed (the agent reads datagrams)."""
        return self.run / "haproxy-failed.sock"

    @property
    def haproxy_master_socket(self) -> Path:
        """HAProxy's master socket (reload, old processes)."""
        return self.run / "haproxy-master.sock"

    @property
    def seccomp(self) -> Path:
        """The filter of cells' system calls, as bubblewrap takes it."""
        return self.state / "seccomp.bpf"

    @property
    def cells(self) -> Path:
        """Folder of the cells' listening sockets."""
        return self.run / "cells"

    @property
    def events_socket(self) -> Path:
        """Where the platform's own parts have workers' other handlers called."""
        return self.run / "events.sock"

    def store_socket(self, store: str) -> Path:
        """Where cells reach one of this machine's stores (`kv`, `d1` …)."""
        return self.run / f"store-{store}.sock"

    def store_pulse(self, store: str) -> Path:
        """Where the agent asks whether a store's process answers."""
        return self.run / f"store-{store}-pulse.sock"

    @property
    def store_key(self) -> Path:
        """What cells' passes to this machine's stores are signed with, 0600."""
        return self.state / "store.key"

    @property
    def transfers(self) -> Path:
        """Files on their way into a store; each goes when it has arrived, or after an hour."""
        return self.state / "transfers"

    @property
    def cache(self) -> Path:
        """What workers have put into the cache: it may be lost, so it is no part of a backup."""
        return self.state / "cache"

    @property
    def data(self) -> Path:
        """What workers keep, a folder for each store (0700)."""
        return self.state / "data"

    def objects_socket(self, account: str, worker: str) -> Path:
        """Where stateless cells reach a worker's object cell."""
        mark = hashlib.sha256(f"{account}/{worker}".encode()).hexdigest()[:12]
        return self.cells / f"o{mark}.sock"

    def objects_watch(self, account: str, worker: str) -> Path:
        """Where the agent asks an object cell who is inside, and has it let nobody in."""
        return self.objects_socket(account, worker).with_suffix(".watch")

    def objects_of(self, account: str, worker: str) -> Path:
        """A worker's objects, and which workerd last wrote them."""
        return self.data / "objects" / account / worker

    @property
    def kv_blobs(self) -> Path:
        """Large values of Workers KV, by their hashes."""
        return self.data / "kv" / "blobs"

    @property
    def egress_socket(self) -> Path:
        """Where cells' outbound requests go."""
        return self.run / "egress.sock"

    @property
    def egress_counters(self) -> Path:
        """Where the agent asks what the egress cell has counted."""
        return self.run / "egress-counters.sock"

    @property
    def egress_key(self) -> Path:
        """What the agent signs cells' tokens with, 0600; made anew when no cell runs."""
        return self.run / "egress.key"

    def read_platform(self) -> Platform:
        """Read the settings. Raises SetupError when no platform was ever started here."""
        try:
            return msgspec.json.decode(self.platform.read_bytes(), type=Platform)
        except FileNotFoundError:
            raise SetupError(
                f"no platform has been started in {self.state}.",
                remedy=f"Start one: kythera up --state {self.state}",
            ) from None
