"""A real PostgreSQL for tests: Debian's, in a folder of its own, on a free port of loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import wait_until

VERSIONS = Path("/usr/lib/postgresql")
OWNER = "postgres"
"""Debian's user for it: the server refuses to run as root."""
STOP_S_MAX = 15.0


@dataclass(frozen=True)
class Database:
    """Where it is, and how to log in."""

    port: int
    password: str
    process: "subprocess.Popen[bytes]"
    host: str = "127.0.0.1"
    user: str = "kythera"
    name: str = "postgres"

    @property
    def url(self) -> str:
        """Return the connection string that wrangler wants."""
        return f"postgres://{self.user}:{self.password}@{self.host}:{self.port}/{self.name}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def postgresql(*, tls: bool = False) -> Iterator[Database]:
    """Run a server for the length of the block; with `tls` it has a certificate of its own making."""
    programs = max(VERSIONS.iterdir(), key=lambda path: int(path.name)) / "bin"
    folder = Path(tempfile.mkdtemp(prefix="kythera-postgresql-"))
    owner = OWNER if os.geteuid() == 0 else None
    try:
        if owner is not None:
            shutil.chown(folder, owner)
        data = _made(programs, folder, owner, tls=tls)
        port = free_port()
        argv = [
            f"{programs}/postgres",
            "-D",
            f"{data}",
            "-p",
            f"{port}",
            "-h",
            "127.0.0.1",
            "-k",
            "",
        ]
        with subprocess.Popen(
            argv, user=owner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        ) as process:
            try:
                wait_until(lambda: _answers(port), "PostgreSQL answers", deadline_s=20)
                yield Database(port, "a secret: of its own", process)
            finally:
                process.send_signal(signal.SIGQUIT)
                process.wait(STOP_S_MAX)
    finally:
        shutil.rmtree(folder)


def _made(programs: Path, folder: Path, owner: str | None, *, tls: bool) -> Path:
    data = folder / "data"
    password = folder / "password"
    password.write_text("a secret: of its own\n")
    settings = ["fsync=off", "log_min_messages=panic"]
    if tls:
        _certificate(folder)
        settings += ["ssl=on", f"ssl_cert_file={folder}/server.crt"]
        settings += [f"ssl_key_file={folder}/server.key"]
    if owner is not None:
        for path in folder.iterdir():
            shutil.chown(path, owner)
    flags = [part for setting in settings for part in ("-c", setting)]
    argv = [f"{programs}/initdb", "-D", f"{data}", "-U", "kythera", f"--pwfile={password}", "-N"]
    subprocess.run(
        [*argv, "--auth=scram-sha-256", "-E", "UTF8"],
        user=owner,
        check=True,
        capture_output=True,
        timeout=60,
        cwd=folder,
    )
    lines = [part.replace("=", " = '", 1) + "'" for part in flags if part != "-c"]
    with (data / "postgresql.conf").open("a") as file:
        file.write("\n".join(["", *lines, ""]))
    return data


def _certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.crt"]
    subprocess.run([*command, *names], cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "server.key").chmod(0o600)


def _answers(port: int) -> bool:
    """Tell whether it says anything to who asks for TLS."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(bytes.fromhex("0000000804d2162f"))
            return sock.recv(1) in (b"S", b"N")
    except OSError:
        return False
