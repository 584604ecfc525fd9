"""The egress cell is shut in too: it has the host's network, and of all else what cells have."""

import os
from pathlib import Path

import pytest

from kythera.run.sandbox import NAMES_AND_AUTHORITIES, UID_FIRST
from tests.node.test_egress_life import CODE, egress_pid, server
from tests.platforms import running

pytestmark = pytest.mark.real
NO_CAPABILITIES = "0" * 16
FILTERED = "2"
"""SECCOMP_MODE_FILTER (proc(5))."""


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int, name: str) -> Path:
    """Return the kernel's own name of a process's namespace."""
    return Path(f"/proc/{pid}/ns/{name}").readlink()


def files_of(pid: int) -> set[str]:
    """Return all files that a process sees, the kernel's own aside."""
    root = Path(f"/proc/{pid}/root")
    found = set()
    for folder, _, names in os.walk(root):
        found |= {f"/{(Path(folder) / name).relative_to(root)}" for name in names}
    return {name for name in found if not name.startswith(("/sys/", "/proc/", "/dev/"))}


def test_it_reaches_out_and_has_hardly_a_file(tmp_path: Path) -> None:
    """Goal: workerd, its libraries, how names are looked up and whom TLS trusts, nothing else; a uid
    of its own, no capability, the calls of its list; the network alone is the host's."""
    with server() as url, running(tmp_path / "state", "--egress-allow", "127.0.0.0/8") as platform:
        platform.upload("out", CODE)
        platform.wait_for("out", "got 1000", f"/?to={url}")
        pid = egress_pid(platform)
        told = status_of(pid)
        assert told["CapEff"] == told["CapPrm"] == told["CapBnd"] == NO_CAPABILITIES
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", FILTERED)
        if os.geteuid() == 0:
            assert int(told["Uid"].split()[0]) >= UID_FIRST
        shared = {
            name
            for name in ("user", "pid", "ipc", "uts", "mnt", "net")
            if namespace(pid, name) == namespace(os.getpid(), name)
        }
        assert shared == {"net"}
        beyond = {
            name
            for name in files_of(pid)
            if not name.startswith(("/lib", "/usr/lib", "/bin/workerd"))
        }
        assert beyond <= {*NAMES_AND_AUTHORITIES}
