"""A world of its own for tests of the egress cell: `python -m tests.node.egress_namespace`.

Runs in new network and mount namespaces, where there is loopback and nothing else. There it gives
the loopback device every address that must not be reached, and two that may be (nothing leaves the
namespace); listens on all of them and notes what arrives; answers DNS with names that lie; starts
an egress cell and, one after another, a cell of each worker of the corpus. Prints one JSON document.
"""

import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kythera.model.limits import Limits
from kythera.model.records import Confinement, Module, Version
from kythera.run.config import CellSettings, cell_config
from kythera.run.egress import COUNTERS, EgressSettings, egress_config
from kythera.run.outbound import EgressDoor
from kythera.run.sandbox import NAMES_AND_AUTHORITIES, ShutIn, confine
from kythera.run.tls_reasons import TlsReasons
from kythera.run.workerd import find_workerd, workerd_argv
from tests.node.tls_servers import PUSHY, STARTTLS, TLS, serve_tls
from tests.run.starting import host_isolation

INSIDE = "KYTHERA_TEST_INSIDE"
NAME_SERVER = "127.0.0.153"
PUBLIC = ("8.8.4.4", "9.9.9.9", "2606:4700::1111")
OWN = "1.0.0.7"
"""A public address that is this machine's own."""
FORBIDDEN = (
    "127.0.0.1",
    "127.9.9.9",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.5.5",
    "192.168.0.1",
    "169.254.169.254",
    "169.254.1.1",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "240.0.0.1",
    "::1",
    "::7f00:1",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
)
MULTICAST = ("224.0.0.1", "ff02::1")
"""Nobody can listen for connections there; only asked for."""
PORTS = (80, 443, 4222, 8080, 8787)
MAPPED = ("::ffff:127.0.0.1", "::ffff:10.0.0.1")
START_S_MAX = 20.0
ANSWER_S_MAX = 60.0
CORPUS = Path(__file__).resolve().parents[1] / "hostile" / "egress"


def is_inside() -> bool:
    """Tell whether this process has namespaces of its own."""
    return os.environ.get(INSIDE) == "1"


def outside(*words: str) -> list[str]:
    """Return the command that runs this module, or `words`, in namespaces of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    inner = 'ip link set lo up && mount --bind $0 /etc/resolv.conf && exec env $1=1 "${@:2}"'
    resolv = Path(tempfile.gettempdir()) / f"kythera-test-resolv-{os.getuid()}.conf"
    resolv.write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n", encoding="ascii")
    return [
        *("unshare", *user, "--net", "--mount", "--fork", "--kill-child", "bash", "-c", inner),
        *(str(resolv), INSIDE, *words),
    ]


def name_of(address: str) -> str:
    """Return a name that leads to an address."""
    return "at-" + address.replace(".", "-").replace(":", "-") + ".test"


@dataclass
class Names:
    """Answers DNS: truly, with two addresses, or another one each time."""

    fixed: dict[str, list[str]] = field(default_factory=dict)
    turning: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def addresses(self, name: str, kind: int) -> list[str] | None:
        """Return what the name leads to now; None: there is no such name."""
        if name in self.turning:
            if kind == 1:
                self.asked[name] = self.asked.get(name, -1) + 1
            choices = self.turning[name]
            return [choices[self.asked.get(name, 0) % len(choices)]]
        return self.fixed.get(name)

    def answer(self, question: bytes) -> bytes:
        """Return the answer to one datagram."""
        at, labels = 12, list[str]()
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
        found = self.addresses(".".join(labels).lower(), kind)
        records = []
        for text in found or ():
            address = ipaddress.ip_address(text)
            if kind == (1 if address.version == 4 else 28):
                head = struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(address.packed))
                records.append(head + address.packed)
        flags = 0x8180 if found is not None else 0x8183
        counts = struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
        return question[:2] + counts + question[12 : at + 5] + b"".join(records)

    def serve(self) -> None:
        """Answer for as long as the process lives."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((NAME_SERVER, 53))
        while True:
            question, who = sock.recvfrom(2048)
            sock.sendto(self.answer(question), who)


@dataclass
class Listeners:
    """Listens everywhere, answers as the path asks, and notes what arrives."""

    arrived: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Listen on all ports of both families."""
        for port in PORTS:
            for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
                sock = socket.socket(family)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((anywhere, port))
                sock.listen(200)
                threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            peer, _ = sock.accept()
            host, port = peer.getsockname()[:2]
            self.arrived.append(f"{host.partition('%')[0]} {port}")
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(ANSWER_S_MAX)
        with peer:
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    more = peer.recv(65536)
                    if not more:
                        return
                    head += more
                peer.sendall(_page(head))
            except OSError:
                return


def _page(head: bytes) -> bytes:
    """Return an answer: a redirect to where the path says, or the head as it arrived."""
    path = head.split(b" ")[1]
    if path.startswith(b"/to/"):
        where = path.removeprefix(b"/to/")
        return (
            b"HTTP/1.1 302 Found\r\nLocation: " + where + b"\r\nContent-Length: 0\r\n"
            b"Connection: close\r\n\r\n"
        )
    extra = (
        b"X-Kythera-Refused: forged\r\nX-Kythera-Egress: forged\r\n" if b"/forge" in path else b""
    )
    length = str(len(head)).encode()
    return (
        b"HTTP/1.1 200 OK\r\n"
        + extra
        + b"Connection: close\r\nContent-Length: "
        + length
        + b"\r\n\r\n"
        + head
    )


def give_addresses() -> None:
    """Put every address on the loopback device of this namespace."""
    for address in (*FORBIDDEN, *PUBLIC, OWN):
        parsed = ipaddress.ip_address(address)
        if parsed.is_loopback and address in ("127.0.0.1", "::1"):
            continue
        extra = ["nodad"] if parsed.version == 6 else []
        words = ["ip", "addr", "add", f"{address}/{parsed.max_prefixlen}", "dev", "lo", *extra]
        subprocess.run(words, check=False, capture_output=True)


def names() -> Names:
    """Return the names of this world."""
    every = (*FORBIDDEN, *MULTICAST, *MAPPED, *PUBLIC, OWN)
    fixed = {name_of(address): [address] for address in every}
    fixed["both.test"] = ["127.0.0.1", "8.8.4.4"]
    fixed["public.test"] = ["8.8.4.4"]
    fixed["listed.test"] = fixed["deep.listed.test"] = ["9.9.9.9"]
    return Names(fixed, {"turning.test": ["8.8.4.4", "127.0.0.1"]})


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1024)
    with sock:
        yield sock


@contextmanager
def running(
    config: bytes, sockets: dict[str, socket.socket], log: Path, authorities: Path | None = None
) -> Iterator[int]:
    """Run a workerd until the block ends; yields its pid once it listens. With authorities it is
    the egress cell, in its sandbox."""
    control, child_end = os.pipe()
    numbers = {name: str(sock.fileno()) for name, sock in sockets.items()}
    argv, opened = [str(find_workerd()), *workerd_argv(numbers, str(child_end))], list[int]()
    if authorities is not None:
        argv, opened = _shut_in(workerd_argv(numbers, str(child_end)), authorities, child_end)
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[child_end, *opened, *(sock.fileno() for sock in sockets.values())],
            env={**os.environ, **({"SSL_CERT_FILE": str(authorities)} if authorities else {})},
        )
    for descriptor in (child_end, *opened):
        os.close(descriptor)
    try:
        assert process.stdin is not None
        process.stdin.write(config)
        process.stdin.close()
        said = b""
        while b"listen" not in said and (more := os.read(control, 4096)):
            said += more
        assert b"listen" in said, log.read_text(encoding="utf-8", errors="replace")
        yield process.pid
    finally:
        os.close(control)
        process.kill()
        process.wait()


def _shut_in(arguments: list[str], authorities: Path, control: int) -> tuple[list[str], list[int]]:
    """Return the egress cell's command and the descriptors that it needs beside its sockets."""
    # Nobody else is to be told from it here: the uid stays the test's own.
    isolation = msgspec.structs.replace(host_isolation(), uids=False)
    seen = [Path(name) for name in NAMES_AND_AUTHORITIES if Path(name).is_file()]
    files = {file: file.resolve() for file in (*seen, authorities)}
    cell = ShutIn(find_workerd(), arguments, "egress", 0, files, outward=True)
    opened = [os.dup(control)]  # bubblewrap closes what it has told its process on
    if isolation.seccomp_outward:
        opened.append(os.open(isolation.seccomp_outward, os.O_RDONLY))
    words = {"info": str(opened[0]), "seccomp": str(opened[-1])}
    return confine(cell, isolation, Limits(), **words).argv, opened


def ask(path: Path, target: str = "/", body: str = "") -> tuple[int, str]:
    """Send one GET, or POST, to a unix socket; return status and body."""
    method = "POST" if body else "GET"
    head = f"{method} {target} HTTP/1.1\r\nHost: cell\r\nContent-Length: {len(body)}\r\n"
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(ANSWER_S_MAX)
        peer.connect(str(path))
        peer.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        received = b""
        while chunk := peer.recv(65536):
            received += chunk
    told, _, answer = received.partition(b"\r\n\r\n")
    if b"chunked" in told.lower():
        answer = _unchunked(answer)
    return int(told.split(b" ")[1]), answer.decode(errors="replace")


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        whole, body = whole + rest[:length], rest[length + 2 :]
    return whole


@dataclass
class World:
    """The namespace, with an egress cell in it."""

    folder: Path
    listeners: Listeners
    door: EgressDoor

    def cell_of(self, worker: str, modules: dict[str, str], confinement: Confinement) -> bytes:
        """Return the configuration of a cell."""
        version = Version(
            account="a" * 32,
            worker=worker,
            id="01234567-89ab-4def-8123-456789abcdef",
            number=1,
            created_on="2026-11-23T00:00:00.000000Z",
            main_module=next(iter(modules)),
            modules=tuple(Module(name=name, type="esm", digest=name, size=0) for name in modules),
            compatibility_date="2026-06-01",
            compatibility_flags=("nodejs_compat",),
            handlers=("fetch",),
            confinement=confinement,
        )
        return cell_config(
            version,
            read_blob=lambda name: modules[name].encode(),
            open_secret=lambda _, sealed: sealed,
            settings=CellSettings(egress=self.door),
        )

    @contextmanager
    def cell(
        self, worker: str, modules: dict[str, str], confinement: Confinement
    ) -> Iterator[Path]:
        """Run a cell; yields where it is asked."""
        path, pulse = self.folder / f"{worker}.sock", self.folder / f"{worker}.pulse"
        config = self.cell_of(worker, modules, confinement)
        with unix_socket(path) as door, unix_socket(pulse) as beat:
            with running(config, {"http": door, "pulse": beat}, self.folder / f"{worker}.log"):
                yield path

    def console(self, worker: str) -> str:
        """Return what a cell has printed."""
        return (self.folder / f"{worker}.log").read_text(encoding="utf-8", errors="replace")

    def counters(self) -> dict[str, Any]:
        """Return what the egress cell has counted."""
        found: dict[str, Any] = json.loads(ask(self.folder / "counters.sock")[1])
        return found


def _tell_reasons(folder: Path) -> None:
    """Tell the egress cell why TLS failed, as the agent does, for as long as it lives."""
    reasons = TlsReasons()
    with (folder / "egress.log").open(encoding="utf-8", errors="replace") as log:
        while folder.exists():
            line = log.readline()
            found = reasons.take(line)
            if found is not None:
                told = json.dumps({"reference": found[0], "why": found[1]})
                ask(folder / "counters.sock", body=told)
            elif not line:
                time.sleep(0.01)


@contextmanager
def world(limits: Limits | None = None, **settings: Any) -> Iterator[World]:
    """Make the namespace ready and run an egress cell in it."""
    assert is_inside(), "addresses are given out in a namespace of our own, or not at all"
    give_addresses()
    threading.Thread(target=names().serve, daemon=True).start()
    listeners = Listeners()
    listeners.open()
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="kythera-egress-") as name:
        folder = Path(name)
        door = EgressDoor(folder / "egress.sock", "0" * 64, limits)
        settings.setdefault("own", (OWN,))
        authorities = serve_tls(folder)
        made = EgressSettings(key=door.key, limits=limits, door_ports=(8080,), **settings)
        with unix_socket(door.socket) as http, unix_socket(folder / "counters.sock") as counted:
            sockets = {"http": http, COUNTERS: counted}
            with running(egress_config(made), sockets, folder / "egress.log", authorities):
                threading.Thread(target=_tell_reasons, args=(folder,), daemon=True).start()
                yield World(folder, listeners, door)


CONFINED = {
    "hosts": Confinement(egress="hosts", egress_hosts=("listed.test", "*.listed.test:80")),
    "none": Confinement(egress="none"),
}


def run_corpus(only: str = "", **settings: Any) -> dict[str, Any]:
    """Run each worker; return what each said, and what arrived meanwhile."""
    found: dict[str, Any] = {}
    shared = {p.name: p.read_text(encoding="utf-8") for p in CORPUS.glob("shared/*.js")}
    facts: dict[str, Any] = {"FORBIDDEN": FORBIDDEN, "MULTICAST": MULTICAST, "MAPPED": MAPPED}
    facts |= {"OWN": OWN, "TLS": TLS, "STARTTLS": STARTTLS, "PUSHY": PUSHY}
    shared["world.js"] = f"export default {json.dumps(facts)};"
    with world(**settings) as here:
        for path in workers():
            if only and path.stem != only:
                continue
            confinement = CONFINED.get(path.stem.partition("-")[0], Confinement())
            before = len(here.listeners.arrived)
            code = path.read_text(encoding="utf-8")
            with here.cell(path.stem, {path.name: code, **shared}, confinement) as cell:
                status, body = ask(cell)
            found[path.stem] = {
                "status": status,
                "body": body,
                "arrived": here.listeners.arrived[before:],
                "console": here.console(path.stem),
            }
        found["counters"] = here.counters()
    return found


def workers() -> list[Path]:
    """Return the corpus: one file, one worker."""
    return sorted(CORPUS.glob("workers/*.js"))


def faults(found: dict[str, Any]) -> list[str]:
    """Return what is wrong with what a worker said and with what arrived. Pure.

    An attempt is refused, unless it begins with `must:` (it is reached) or `may:` (either)."""
    allowed = (*PUBLIC, OWN)
    wrong = [
        f"arrived at {place}"
        for place in found["arrived"]
        if place.split()[0] not in allowed or (place.split()[0] == OWN and place != f"{OWN} 8080")
    ]
    if found["status"] != 200:
        return [*wrong, f"the worker did not answer: {found['status']} {found['body'][:200]}"]
    attempts = json.loads(found["body"])
    for what, outcome, told in attempts:
        expected = "reached" if what.startswith("must:") else "refused"
        if outcome != expected and not what.startswith("may:"):
            wrong.append(f"{what} was {outcome}: {told[:200]}")
    return wrong if attempts else ["the worker tried nothing"]


if __name__ == "__main__":
    print(json.dumps(run_corpus(**json.loads(sys.argv[1]))))  # noqa: T201
