"""The real, unmodified wranglers, each run in a world of its own.

Each run gets its own HOME and nothing of our environment but a PATH; telemetry, banner, error
reports and cf.json are off, so that the only host it speaks to is the platform's.
"""

import json
import os
import platform as host
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.platforms import RunningPlatform

FOLDER = Path(__file__).resolve().parent / "wrangler"
VERSIONS = tuple(
    sorted(
        (path.parent.name for path in FOLDER.glob("*/package-lock.json")),
        key=lambda version: [int(part) for part in version.split(".")],
    )
)
RUN_S_MAX = 60.0
OFF = {
    "WRANGLER_SEND_METRICS": "false",
    "WRANGLER_HIDE_BANNER": "true",
    "WRANGLER_SEND_ERROR_REPORTS": "false",
    "CLOUDFLARE_CF_FETCH_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
    "FORCE_COLOR": "0",
    "CI": "true",
}


def node_folder(version: str) -> str:
    """Return the folder of the Node that this wrangler needs: its own, else the machine's."""
    chip = {"x86_64": "x64", "aarch64": "arm64"}[host.machine()]
    own = FOLDER / version / "node_modules" / f"node-linux-{chip}" / "bin"
    return f"{own}:" if own.is_dir() else ""


@dataclass(frozen=True)
class Run:
    """What one run of wrangler said."""

    code: int
    stdout: str
    stderr: str
    events: tuple[dict[str, Any], ...]
    """wrangler's own machine-readable account (WRANGLER_OUTPUT_FILE_PATH)."""

    @property
    def text(self) -> str:
        """Return all that was printed."""
        return f"{self.stdout}\n{self.stderr}"

    def event(self, kind: str) -> dict[str, Any]:
        """Return the one event of a kind."""
        return next(event for event in self.events if event["type"] == kind)

    def json(self) -> Any:
        """Return what a `--json` command printed."""
        return json.loads(self.stdout)


@dataclass
class Wrangler:
    """One version of wrangler, pointed at one platform."""

    version: str
    platform: RunningPlatform
    home: Path
    runs: int = field(default=0)

    @property
    def mark(self) -> str:
        """Return this wrangler's part of a worker's name: `486` or `4164`."""
        return "".join(self.version.split(".")[:2])

    def name(self, base: str) -> str:
        """Return a worker's name that no other wrangler uses."""
        return f"{base}-{self.mark}"

    def environment(self) -> dict[str, str]:
        """Return all that wrangler knows of the world."""
        return {
            **OFF,
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "WRANGLER_LOG_PATH": str(self.home / "logs"),
            # What Node has compiled once, for all runs: a third of each one's CPU. Node 20 knows no such.
            "NODE_COMPILE_CACHE": str(FOLDER / self.version / "node_modules" / ".compiled"),
            "PATH": node_folder(self.version) + os.environ["PATH"],
            "CLOUDFLARE_API_BASE_URL": self.platform.api,
            "CLOUDFLARE_API_TOKEN": self.platform.token,
            "CLOUDFLARE_ACCOUNT_ID": self.platform.account_id,
        }

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line that runs this wrangler."""
        script = FOLDER / self.version / "node_modules" / "wrangler" / "bin" / "wrangler.js"
        return ["node", str(script), *arguments]

    def run(
        self,
        *arguments: str,
        project: Path | None = None,
        stdin: str = "",
        environment: Mapping[str, str | None] | None = None,
    ) -> Run:
        """Run wrangler and return what it said, whether it worked or not."""
        self.runs += 1
        output = self.home / f"output-{self.runs}.ndjson"
        variables: dict[str, str | None] = {
            **self.environment(),
            "WRANGLER_OUTPUT_FILE_PATH": str(output),
            **(environment or {}),
        }
        given = {name: value for name, value in variables.items() if value is not None}
        done = subprocess.run(
            self.argv(*arguments),
            executable=self._node(),
            cwd=project or self.home,
            env=given,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            check=False,
        )
        lines = output.read_text().splitlines() if output.exists() else []
        events = tuple(json.loads(line) for line in lines)
        return Run(done.returncode, done.stdout, done.stderr, events)

    def _node(self) -> str | None:
        own = node_folder(self.version).rstrip(":")
        return f"{own}/node" if own else None

    def do(self, *arguments: str, **more: Any) -> Run:
        """Run wrangler; it must succeed."""
        done = self.run(*arguments, **more)
        assert done.code == 0, f"wrangler {' '.join(arguments)} -> {done.code}\n{done.text}"
        return done

    def refuse(self, *arguments: str, **more: Any) -> Run:
        """Run wrangler; it must fail."""
        done = self.run(*arguments, **more)
        assert done.code != 0, f"wrangler {' '.join(arguments)} worked, and should not\n{done.text}"
        return done


def write_project(
    folder: Path, config: dict[str, Any], files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Write a Workers project: wrangler.json and files; `index.js` is its main unless it says."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults: dict[str, Any] = {"compatibility_date": "2026-01-01"}
    if files and "index.js" in files:
        defaults["main"] = "index.js"
    (folder / "wrangler.json").write_text(json.dumps({**defaults, **config}))
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def says(text: str) -> str:
    """Return a module worker that answers every request with one text."""
    return f"export default {{ fetch() {{ return new Response({json.dumps(text)}) }} }}\n"
