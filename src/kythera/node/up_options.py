"""What `kythera up` was asked for, and the state folder it makes of that.

Promises: after `prepare` the folder is private (0700), holds a token, a key for secrets and an
account that never change again, and belongs to this keeper alone until the lock is let go.
Refuses, with a remedy: a folder that cannot be written, or whose name engines cannot read; another
keeper on the same folder.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec

from kythera.ground.chance import Chance
from kythera.ground.clock import wait_until
from kythera.ground.files import write_atomically, write_private
from kythera.ground.key_files import KeyFiles, as_line, make_key, read_keys
from kythera.ground.layout import Layout
from kythera.ground.shared_secrets import derived, keep_shared, read_shared
from kythera.ground.sockets import format_address, parse_address
from kythera.model.errors import SetupError
from kythera.model.limits import Limits
from kythera.model.names import as_machine_name, is_hostname, is_machine_name
from kythera.model.platform import Platform
from kythera.run.addresses import blocks

ANYWHERE = ("0.0.0.0:", "[::]:")
NOT_IN_STATE = "$,{}"
"""HAProxy reads a variable at the first and another address after the second; the keeper's commands
have places to fill at the others."""
LOCK_NAME = "keeper.lock"
LOCK_WAIT_S = 2.0
"""How long a lock may outlive its killed owner (a child between fork and exec)."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """`kythera up`'s options; addresses are `HOST:PORT`, where port 0 picks a free one."""

    state: Path
    http: str = "127.0.0.1:8080"
    https: str = ""
    api: str = "127.0.0.1:8787"
    domain: str = ""
    """Empty: the fleet's, if this machine joined one, else `localhost`."""
    site: str = ""
    region: str = ""
    world: str = ""
    mesh: str = ""
    """Where the fleet's other machines reach this one."""
    advertise: str = ""
    """What the others are told instead, behind an address translation."""
    machine: str = ""
    """This machine's place and name; empty: as at the last start."""
    join: str = ""
    """A token (`kythera token create`) of the fleet to join."""
    tls_certificates: str = ""
    secrets_key: str = ""
    """A file with the keys for secrets; empty: as at the last start."""
    egress_allow: tuple[str, ...] = ("public",)
    s3: str = ""
    """Where R2's buckets are open to clients of S3; empty: nowhere."""
    r2_endpoint: str = ""
    """Another S3 endpoint for R2's objects, `own` for none; empty: as at the last start."""
    r2_key: str = ""
    """The file with its key; empty: as at the last start."""
    strict: bool = False
    """Do not start where cells cannot be shut in as well as Kythera can."""
    json: bool = False
    limits: Limits = field(default_factory=Limits)
    agent_argv: tuple[str, ...] = ()
    """Another agent instead of ours (tests); empty means ours."""
    api_argv: tuple[str, ...] = ()


def check(options: UpOptions) -> None:
    """Refuse options that cannot work, before anything is touched. Raises SetupError."""
    _check_state(options.state)
    for address in filter(
        None,
        (
            *(options.http, options.https, options.api),
            *(options.mesh, options.advertise, options.s3),
        ),
    ):
        parse_address(address)
    blocks(options.egress_allow)
    if not options.advertise and options.mesh.startswith(ANYWHERE):
        raise SetupError(
            f"--mesh {options.mesh} does not say where the others reach this machine.",
            remedy="Add --advertise HOST:PORT, or give --mesh an address of this machine.",
        )
    if options.machine and not is_machine_name(options.machine):
        raise SetupError(
            f"--machine {options.machine!r} cannot be a machine's name.",
            remedy="Take 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit.",
        )
    if options.domain and not is_hostname(options.domain):
        raise SetupError(
            f"--domain {options.domain!r} is not a hostname.",
            remedy="Give a lower-case DNS name, for example workers.example.org, or localhost.",
        )
    if options.https and not options.tls_certificates:
        raise SetupError(
            "--https needs a certificate.",
            remedy="Add --tls-certificates FILE_OR_FOLDER (PEM: certificate chain and key).",
        )
    if options.tls_certificates and not Path(options.tls_certificates).exists():
        raise SetupError(
            f"there is no certificate at {options.tls_certificates}.",
            remedy="Give --tls-certificates a PEM file, or a folder of them.",
        )
    if options.secrets_key:
        read_keys(Path(options.secrets_key))


def _check_state(state: Path) -> None:
    """Refuse what the engines' configurations cannot say. Raises SetupError."""
    for path in (str(state), str(state.resolve())):
        odd = next((c for c in path if c in NOT_IN_STATE or not c.isprintable()), None)
        if odd is not None:
            raise SetupError(
                f"the state folder {path!r} cannot be used, because of the {odd!r} in it.",
                remedy=f"Choose another --state: any name without {' '.join(NOT_IN_STATE)}, line"
                " breaks, other control characters, and bytes that are not UTF-8.",
            )


def remembered(options: UpOptions, before: Platform | None, *, joined: bool) -> UpOptions:
    """Return the options with what was not said now as it was at the last start. Pure but for the
    host's name, which is the machine's at its first start.

    `joined`: this machine came into a fleet, whose domain it keeps."""
    if before is None:
        before = Platform(account_id="", machine=as_machine_name(socket.gethostname()))
    told_else = before.mesh_advertised if before.mesh_advertised != before.mesh else ""
    host = parse_address(before.mesh)[0] if before.mesh else "127.0.0.1"
    return replace(
        options,
        machine=options.machine or before.machine,
        site=options.site or before.site,
        region=options.region or before.region,
        world=options.world or before.world,
        domain=options.domain or (before.domain if joined else "localhost"),
        mesh=options.mesh or format_address(host, 0),
        advertise=options.advertise or told_else,
        secrets_key=_given_keys(options, before),
    )


def _given_keys(options: UpOptions, before: Platform) -> str:
    """Return the operator's file of keys; naming the state folder's own ends that there is one."""
    given = options.secrets_key or before.secrets_key
    return "" if given == str(Layout(options.state.absolute()).secrets_key) else given


class StateLock:
    """Held by the one keeper of a state folder. The kernel lets go of it when the keeper dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.was_killed = False
        """Whether the keeper before us ended without saying goodbye."""

    def __enter__(self) -> Self:
        try:
            self.take()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop being the keeper, and leave word that nothing remains."""
        self._write("")
        os.close(self._descriptor)

    def take(self) -> None:
        """Become the keeper. Raises SetupError, naming the pid, when there is one."""
        taken = wait_until(lambda: self._try() or _lives(self._read()), within_s=LOCK_WAIT_S)
        if not taken or not self._try():
            holder = self._read()
            raise SetupError(
                f"a platform already runs on this state folder (pid {holder}).",
                remedy=f"Stop it (kill {holder}), or choose another folder: --state DIR.",
            )
        self.was_killed = bool(self._read())
        self._write(str(os.getpid()))

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _read(self) -> str:
        return os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)


def _lives(pid: str) -> bool:
    if not pid.isdigit():
        return True  # it has the lock, and has not written its name yet
    with contextlib.suppress(PermissionError):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True


def prepare_folders(layout: Layout) -> None:
    """Make the state folder and the folder of its sockets, both 0700. Raises SetupError."""
    try:
        layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (layout.state / LOCK_NAME).touch(mode=0o600)
        for folder in (layout.run, layout.cells):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()  # it may lie where everybody may make folders: trust ours only
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it belongs to somebody else", str(folder))
            folder.chmod(0o700)
    except OSError as error:
        raise SetupError(
            f"cannot use the state folder {layout.state}: {error.strerror} ({error.filename}).",
            remedy="Choose a folder that you may write: kythera up --state DIR.",
        ) from error


def remove_moved_run(layout: Layout) -> None:
    """Leave nothing in the system's temporary folder, if that is where our sockets were."""
    if layout.state.resolve() not in layout.run.parents:
        with contextlib.suppress(OSError):
            layout.egress_key.unlink(missing_ok=True)
            layout.cells.rmdir()
            layout.run.rmdir()


def prepare_secrets(layout: Layout, chance: Chance, given: str = "") -> None:
    """Make the API token and the key that seals secrets, once; both 0600.

    `given` is the operator's file of keys, if there is one: then none is made. Raises SetupError."""
    if not layout.token.exists():
        write_private(layout.token, chance.token().encode())
    if not layout.secrets_key.exists() and not given:
        write_private(layout.secrets_key, as_line(make_key()).encode())
    keys = KeyFiles(layout.secrets_key, Path(given) if given else None).read()
    if not layout.shared.exists():
        keep_shared(layout, read_shared(layout) or derived(as_line(keys[0]).encode()))


def previous_platform(layout: Layout) -> Platform | None:
    """Return the settings of the last start, or None when there was none that we understand."""
    try:
        return layout.read_platform()
    except (SetupError, msgspec.MsgspecError, OSError):
        return None


def write_platform(layout: Layout, platform: Platform) -> None:
    """Write the settings for this start's processes."""
    write_atomically(layout.platform, msgspec.json.format(msgspec.json.encode(platform)), 0o600)
