"""`wrangler dev` with all workers at once: one process, and before them a router of ours that finds the
worker by the first step of the path."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.differential.cases import COMPATIBILITY_DATE, Case
from tests.processes import births, family, wait_until
from tests.wranglers import FOLDER, OFF, node_folder

READY_S_MAX = 60.0
STOP_S_MAX = 15.0
ROUTER = """\
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, name] = url.pathname.split('/');
    if (name === '') {
      return new Response('ready');
    }
    const target = `http://${name}.localhost${request.url.slice(url.origin.length + name.length + 1)}`;
    return env[name].fetch(new Request(target, request));
  },
};
"""


@contextmanager
def wrangler_dev(cases: Sequence[Case], version: str, folder: Path) -> Iterator[str]:
    """Run it for the length of a `with` block; give its address."""
    (folder / "router").mkdir(parents=True)
    (folder / "router" / "router.js").write_text(ROUTER)
    router = {
        "name": "router",
        "main": "router.js",
        "compatibility_date": COMPATIBILITY_DATE,
        "services": [{"binding": case.name, "service": case.name} for case in cases],
    }
    configs = [_written(folder / "router", router)]
    configs += [_written(folder / case.name, case.wrangler()) for case in cases]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    binary = FOLDER / version / "node_modules/wrangler/bin/wrangler.js"
    words = [word for config in configs for word in ("-c", str(config))]
    command = ["node", str(binary), "dev", *words, "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--inspector-port", "0", "--log-level", "error"]
    path = node_folder(version) + os.environ["PATH"]
    environment = {"HOME": str(folder), "PATH": path, **OFF}
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(
                lambda: _ready(process, address, folder),
                "wrangler dev is ready",
                deadline_s=READY_S_MAX,
            )
            yield address
        finally:
            _stop(process)


def _written(folder: Path, config: Mapping[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "wrangler.json").write_text(json.dumps(config))
    return folder / "wrangler.json"


def _ready(process: "subprocess.Popen[bytes]", address: str, folder: Path) -> bool:
    if process.poll() is not None:
        said = (folder / "dev.log").read_text(errors="replace")
        raise AssertionError(f"wrangler dev ended: {re.sub(chr(27) + r'.*?m', '', said)[-4000:]}")
    try:
        with httpx.Client(trust_env=False, timeout=5) as client:
            return client.get(address).text == "ready"
    except httpx.HTTPError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    left = births(family(process.pid))
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, born in left.items():
        if births({pid}) == {pid: born}:
            os.kill(pid, signal.SIGKILL)
