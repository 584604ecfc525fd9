"""Where workerd and the schema of its configuration are on this host.

The pinned npm package beside the code, or the binary that KYTHERA_WORKERD names. Refuses
(SetupError) with what to install.
"""

import mmap
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import anyio

from kythera.ground.processes import child
from kythera.model.errors import SetupError

OVERRIDE = "KYTHERA_WORKERD"
VERSION_MS_MAX = 5_000
CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
PACKAGES = {
    "x86_64": "workerd-linux-64",
    "amd64": "workerd-linux-64",
    "aarch64": "workerd-linux-arm64",
    "arm64": "workerd-linux-arm64",
}


def node_modules() -> Path:
    """Return the folder that `npm ci` fills, beside the package."""
    return Path(__file__).resolve().parents[3] / "node_modules"


def find_workerd(environment: Mapping[str, str] = os.environ) -> Path:
    """Find the program. Raises SetupError when it is not there."""
    override = environment.get(OVERRIDE)
    binary = Path(override) if override else _packaged(node_modules())
    if not os.access(binary, os.X_OK):
        raise SetupError(f"workerd is not at {binary}.", remedy="Run `make setup`.")
    return binary


def find_schema(environment: Mapping[str, str] = os.environ) -> Path:
    """Find the schema of workerd's configuration. Raises SetupError when it is not there."""
    override = environment.get(OVERRIDE)
    # The binary of an npm installation has its own schema some folders up.
    near = [folder / "workerd" for folder in Path(override).resolve().parents] if override else []
    schemas = [folder / "workerd.capnp" for folder in (*near, node_modules() / "workerd")]
    for schema in schemas:
        if schema.is_file():
            return schema
    raise SetupError(
        f"the schema of workerd's configuration is not at {schemas[-1]}.",
        remedy="Run `make setup`.",
    )


def _packaged(modules: Path) -> Path:
    machine = platform.machine()
    package = PACKAGES.get(machine.lower())
    if package is None:
        raise SetupError(
            f"workerd has no build for {machine}.",
            remedy=f"Kythera runs on x86-64 and arm64; or set {OVERRIDE} to a binary of your own.",
        )
    return modules / "@cloudflare" / package / "bin" / "workerd"


def ca_available(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether workerd will find certificate authorities (else it refuses to start)."""
    named = environment.get("SSL_CERT_FILE")
    return any(Path(path).is_file() for path in ([named] if named else CA_FILES))


async def workerd_version(binary: Path) -> str:
    """Return the program's own word for its version, such as `2026-11-17`; empty if it has none."""
    with anyio.move_on_after(VERSION_MS_MAX / 1000):
        async with child([str(binary), "--version"]) as process:
            output = await process.read_output()
            return output.stdout.decode(errors="replace").strip().removeprefix("workerd ")
    return ""


def hold_binary(binary: Path) -> mmap.mmap:
    """Map the program's file, all of it, until the result is closed.

    What one process alone has mapped of a file counts as its private memory: 45 MB of the only
    cell's. Mapped here too it counts as what it is, shared (and reclaimable). Costs 30 ms once."""
    with binary.open("rb") as file:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)


def workerd_argv(sockets: Mapping[str, str], control: str) -> list[str]:
    """Return workerd's arguments: binary configuration on stdin, its sockets on descriptors.

    Descriptors, by a socket's name and for `control`, are numbers, or the keeper's placeholders."""
    return [
        "serve",
        "--experimental",  # the asset service needs it; it costs nothing
        "--binary",
        *(word for name, number in sockets.items() for word in ("--socket-fd", f"{name}={number}")),
        "--control-fd",
        control,
        "-",
    ]
