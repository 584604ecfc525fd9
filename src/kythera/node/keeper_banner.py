"""What a person, or a script, sees when the platform is ready. Pure."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kythera.ground.sockets import format_address, parse_address
from kythera.model.platform import Platform

_ANY_TO_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (recognised, not bound)


def url(scheme: str, address: str) -> str:
    """Return a URL that works on this machine for where we listen."""
    host, port = parse_address(address)
    return f"{scheme}://{format_address(_ANY_TO_LOCAL.get(host, host), port)}"


def ready_event(platform: Platform, pid: int) -> dict[str, Any]:
    """Return the one event that `--json` prints."""
    event = {"event": "ready", "http": url("http", platform.http)}
    if platform.https:
        event["https"] = url("https", platform.https)
    return {
        **event,
        "api": api_url(platform),
        "account_id": platform.account_id,
        "domain": platform.domain,
        "pid": pid,
    }


def api_url(platform: Platform) -> str:
    """Return the base of the API, as wrangler wants it."""
    return url("http", platform.api) + "/client/v4"


def banner(platform: Platform, state: Path, command: str, facts: Mapping[str, Any]) -> str:
    """Return the friendly words of a start, for a terminal."""
    example = facts.get("example")
    to_deploy = f"{command} wrangler --state {shlex.quote(str(state))} -- deploy"
    return "\n".join(
        [
            "",
            "Kythera is up: this machine serves.",
            "",
            *([f"  Example   {example}"] if example else []),
            f"  Workers   {_workers_address(platform)}",
            f"  API       {api_url(platform)}",
            "",
            *_isolation(platform),
            "Deploy a project of your own, from its folder:",
            "",
            f"  {to_deploy}",
            "",
            "Press Ctrl-C to stop; what is deployed is served again at the next start.",
            "",
        ]
    )


def _isolation(platform: Platform) -> list[str]:
    weaker = platform.isolation.weaker
    if not weaker:
        return []
    said = [f"  - {sentence}" for sentence in weaker]
    return ["Workers are shut in less well here than Kythera can (kythera doctor):", *said, ""]


def _workers_address(platform: Platform) -> str:
    _, port = parse_address(platform.https or platform.http)
    scheme, usual = ("https", 443) if platform.https else ("http", 80)
    return f"{scheme}://<worker>.{platform.domain}" + ("" if port == usual else f":{port}")


def our_command(argv0: str) -> str:
    """Return how a person calls us from any folder: `kythera` where PATH leads to it."""
    path = Path(argv0).absolute()
    on_path = shutil.which("kythera")
    if on_path and path.exists() and Path(on_path).samefile(path):
        return "kythera"
    if path.name == "kythera" and os.access(path, os.X_OK):
        return shlex.quote(str(path))
    return f"{shlex.quote(sys.executable)} -m kythera.cli"


def json_line(event: Mapping[str, Any]) -> str:
    """Return an event as the line that scripts wait for."""
    return json.dumps(event)
