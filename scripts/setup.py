"""Set this machine up for Kythera: Debian packages, virtual environment, Python and npm packages.

Promises: each step runs once (a stamp holds the digest of what it was made from), says what it
does and how long it took, and a failure says what to type. Refuses: to guess a password, to
install anything that a lock file does not name, to go on after a failed step.
Standard library alone, and no syntax newer than Python 3.8: it must be able to say that Python
is too old.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Tuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
DRIVERS = ROOT / "tests" / "drivers"
PYTHON_MIN = (3, 11)
NODE_MIN = 20
STEP_S_MAX = 1800
"""No step takes longer on a slow machine and a slow line; then it is stuck."""
Packages = Dict[str, Tuple[str, str]]
"""Debian package -> the file, library or program that tells it is there, and what it is for."""
DEBIAN: Packages = {
    "haproxy": ("haproxy", "the front door"),
    "bubblewrap": ("bwrap", "the sandbox around each worker"),
    "libseccomp2": ("libseccomp.so.2", "which system calls a worker may make"),
    "ca-certificates": ("/etc/ssl/certs/ca-certificates.crt", "to check others' certificates"),
}
DEBIAN_TEST: Packages = {
    "chromium": ("/usr/bin/chromium", "the browser of the tests"),
    "chromium-driver": ("/usr/bin/chromedriver", "what drives it"),
    "postgresql": ("/usr/bin/pg_ctlcluster", "a database for the tests of Hyperdrive"),
    "rclone": ("rclone", "a client of R2's buckets, for their tests"),
}
DEBIAN_BENCH: Packages = {"wrk": ("wrk", "the load of the bench")}
ARCHITECTURES = {"x86_64": "64", "aarch64": "arm64"}
OUR_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Debian keeps haproxy in /usr/sbin, which is not on everybody's PATH."""


class SetupFailure(Exception):
    """The set-up cannot go on; the text says why and what to type."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(text, flush=True)


def run(
    title: str,
    argv: list[str | Path],
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> None:
    """Run one step's command; show its output only when it fails."""
    started = time.monotonic()
    print(f"  {title} …", end="", flush=True)
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=str(cwd),
            env=dict(os.environ, **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupFailure(f"{argv[0]} took longer than {STEP_S_MAX} s.") from None
    if done.returncode != 0:
        say(" failed")
        say(done.stdout.decode(errors="replace")[-6000:])
        typed = " ".join(str(word) for word in argv)
        raise SetupFailure(f"`{typed}` ended with {done.returncode}; its own words are above.")
    say(f" {time.monotonic() - started:.1f} s")


def digest(*parts: str | Path) -> str:
    """Return one SHA-256 over texts, folders' names and files' contents."""
    total = hashlib.sha256()
    for part in parts:
        named = isinstance(part, str) or part.is_dir()
        data = str(part).encode() if named else Path(part).read_bytes()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def is_stamped(stamp: Path, mark: str) -> bool:
    """Tell whether a step was already done from exactly these inputs."""
    return stamp.is_file() and stamp.read_text() == mark


def require_python() -> str:
    """Return the interpreter to build on: the one below this one, or a newer one on the PATH."""
    if sys.version_info >= PYTHON_MIN:
        return str(getattr(sys, "_base_executable", sys.executable))
    for minor in (14, 13, 12, 11):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    raise SetupFailure(
        f"Python 3.11 or newer is needed; this is {platform.python_version()}.\n"
        "Install it (Debian 12: apt-get install python3 python3-venv) or say where it is: "
        "make setup PYTHON=/path/to/python3.11"
    )


def require_node() -> str:
    """Check Node and npm: wrangler's world, and the way workerd comes to this machine."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise SetupFailure(
            f"{'npm' if node else 'Node'} is missing. Install Node 20 or newer with npm "
            "(Debian 12 with NodeSource: apt-get install nodejs; else from nodejs.org)."
        )
    text = subprocess.run(
        [node, "--version"], stdout=subprocess.PIPE, timeout=30, check=True
    ).stdout.decode()
    if int(text.strip().lstrip("v").split(".")[0]) < NODE_MIN:
        raise SetupFailure(f"Node {NODE_MIN} or newer is needed; {node} is {text.strip()}.")
    return npm


def require_architecture() -> None:
    """Check that there is a workerd for this machine."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        raise SetupFailure(
            "Kythera runs on Linux, x86-64 or arm64; "
            f"this is {platform.system()} on {platform.machine()}."
        )


def missing_packages(wanted: Packages) -> list[str]:
    """Return the Debian packages of which the telling file or program is not here."""
    return [name for name, (sign, _) in sorted(wanted.items()) if not is_there(sign)]


def is_there(sign: str) -> bool:
    """Tell whether a file (by its path), a library or a program is on this machine."""
    if sign.startswith("/"):
        return Path(sign).exists()
    if ".so" not in sign:
        return shutil.which(sign, path=OUR_PATH) is not None
    try:
        ctypes.CDLL(sign)
    except OSError:
        return False
    return True


def root_prefix() -> list[str] | None:
    """Return how to become root: nothing, `sudo`, or None when neither is possible."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if not sudo:
        return None
    if subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    if sys.stdin.isatty():
        say("  sudo will ask for your password to install Debian packages")
        if subprocess.run([sudo, "-v"], check=False).returncode == 0:
            return [sudo, "-n"]
    return None


def install_debian(wanted: Packages) -> None:
    """Install what is missing of the Debian packages, or say exactly what to type."""
    missing = missing_packages(wanted)
    if not missing:
        return
    by_hand = "apt-get update && apt-get install -y " + " ".join(missing)
    reasons = "; ".join(f"{name} ({wanted[name][1]})" for name in missing)
    prefix = root_prefix() if shutil.which("apt-get") else None
    if prefix is None:
        why = "not root, no sudo" if shutil.which("apt-get") else "no apt-get here"
        raise SetupFailure(
            f"Missing on this machine: {reasons}.\n"
            f"This script may not install it ({why}). As root, type:\n\n    {by_hand}\n\n"
            "then run make again. Elsewhere than on Debian: your system's own way."
        )
    apt: list[str | Path] = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    run("Debian: refreshing the package lists", [*apt, "update"])
    install = [*apt, "install", "-y", "--no-install-recommends", *missing]
    run(f"Debian: installing {', '.join(missing)}", install)
    left = missing_packages({name: wanted[name] for name in missing})
    if left:
        raise SetupFailure(f"apt-get said yes, yet missing: {left}. As root, type: {by_hand}")


def venv_package(python: str) -> Packages:
    """Return the Debian package that `python -m venv` needs, beside the file that tells of it."""
    probe = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    asked = subprocess.run([python, "-c", probe], stdout=subprocess.PIPE, timeout=30, check=True)
    sign = f"{asked.stdout.decode().strip()}/ensurepip/__init__.py"
    return {"python3-venv": (sign, "Python's virtual environments")}


def install_python(python: str, requirements: list[str], stamp_name: str) -> None:
    """Make the virtual environment and put the hashed requirements and ourselves into it."""
    files = [ROOT / name for name in requirements]
    base = str(Path(python).resolve())
    mark = digest(ROOT, base, platform.machine(), ROOT / "pyproject.toml", *files)
    stamp = VENV / stamp_name
    if is_stamped(stamp, mark):
        return
    venv_python = VENV / "bin" / "python"
    if not is_stamped(VENV / "made-by", digest(ROOT, base)):
        install_debian(venv_package(python))
        run("Python: virtual environment in .venv", [python, "-m", "venv", "--clear", VENV])
        (VENV / "made-by").write_text(digest(ROOT, base))
    pip: list[str | Path] = [
        venv_python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "-q",
    ]
    for name in requirements:
        hashed = [*pip, "--require-hashes", "--only-binary", ":all:", "-r", ROOT / name]
        run(f"Python: packages of {name}", hashed)
    run("Python: kythera itself", [*pip, "--no-deps", "--no-build-isolation", "-e", ROOT])
    stamp.write_text(mark)


def npm_stamp(folder: Path) -> Path:
    """Return where a folder's npm packages say what they were installed from."""
    return folder / "node_modules" / ".kythera-stamp"


def npm_mark(folder: Path) -> str:
    """Return the digest of what a folder's npm packages are installed from."""
    return digest(folder, platform.machine(), folder / "package-lock.json", folder / "package.json")


def is_npm_done(folder: Path) -> bool:
    """Tell whether a folder's npm packages are those its lock file names."""
    return is_stamped(npm_stamp(folder), npm_mark(folder))


def install_npm(npm: str, folder: Path, title: str) -> None:
    """Install exactly what a package-lock.json names; install scripts stay off."""
    if is_npm_done(folder):
        return
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    quiet = {"npm_config_update_notifier": "false", "npm_config_engine_strict": "false"}
    run(title, [npm, "ci", *flags], cwd=folder, env=quiet)
    npm_stamp(folder).write_text(npm_mark(folder))


def let_everybody_run(binary: Path) -> None:
    """Cells have uids of their own; npm gives a file to its owner alone where the umask is 077."""
    with contextlib.suppress(OSError):  # another's file: the platform says what it lacks
        mode = stat.S_IMODE(binary.stat().st_mode)
        if mode & 0o555 != 0o555:
            binary.chmod(mode | 0o555)


def check_engine() -> None:
    """Start the engine once: a binary that cannot run here is found now, not at the first visit."""
    package = f"workerd-linux-{ARCHITECTURES[platform.machine()]}"
    binary = ROOT / "node_modules" / "@cloudflare" / package / "bin" / "workerd"
    stamp = ROOT / "node_modules" / ".kythera-engine"
    mark = digest(ROOT, ROOT / "package-lock.json")
    let_everybody_run(binary)
    if not is_stamped(stamp, mark):
        run("workerd starts on this machine", [binary, "--version"])
        stamp.write_text(mark)


def set_up(options: argparse.Namespace) -> None:
    """Do every step that is not done yet."""
    require_architecture()
    python = require_python()
    folders = [ROOT, *([*wrangler_folders(), DRIVERS] if options.test else [])]
    npm = "npm" if all(is_npm_done(folder) for folder in folders) else require_node()
    wanted = dict(DEBIAN, **(DEBIAN_BENCH if options.bench else {}))
    install_debian(dict(wanted, **(DEBIAN_TEST if options.test else {})))
    install_python(python, ["requirements.txt"], ".kythera-stamp")
    install_npm(npm, ROOT, "npm: workerd and esbuild")
    check_engine()
    if options.checks or options.test:
        install_python(python, ["requirements.txt", "requirements-dev.txt"], ".kythera-dev-stamp")
    if options.test:
        for folder in wrangler_folders():
            install_npm(npm, folder, f"npm: wrangler {folder.name}")
        install_npm(npm, DRIVERS, "npm: clients of databases")


def wrangler_folders() -> list[Path]:
    """Return the folders that pin one unmodified wrangler each."""
    return sorted(p.parent for p in (ROOT / "tests" / "wrangler").glob("*/package-lock.json"))


def main() -> int:
    """Read the arguments, take the lock, set up; say what is wrong in one paragraph."""
    parser = argparse.ArgumentParser(description="Set this machine up for Kythera.")
    parser.add_argument("--checks", action="store_true", help="also linters, types and pytest")
    parser.add_argument("--test", action="store_true", help="--checks, and the tests' wranglers")
    parser.add_argument("--bench", action="store_true", help="also what `make bench` needs")
    options = parser.parse_args()
    started = time.monotonic()
    with Path(__file__).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  another set-up is running here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up(options)
        except SetupFailure as failure:
            say(f"\nset-up: {failure}")
            return 1
    if time.monotonic() - started > 1:
        say(f"  set-up done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
