"""`kythera env` and `kythera wrangler`: point an unmodified wrangler at this platform."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import click

from kythera.cli.client import api_url, read_token
from kythera.cli.command import STATE, Here, layout_at, platform_of, with_here
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError

NODE_VERSION_S = 10
OVERRULING = ("CLOUDFLARE_API_KEY", "CLOUDFLARE_EMAIL", "CLOUDFLARE_API_USER_SERVICE_KEY")
"""wrangler would prefer these to our token."""
WRANGLER_FOR_NODE_20 = "wrangler@4.86.0"
"""The last wrangler that runs on Node 20."""
WRANGLER_NEWEST = "wrangler@4"
NODE_FOR_NEWEST = 22


def environment(layout: Layout) -> dict[str, str]:
    """Return what wrangler needs to speak to this platform and to nobody else."""
    platform = platform_of(layout)
    return {
        "CLOUDFLARE_API_BASE_URL": api_url(platform),
        "CLOUDFLARE_API_TOKEN": read_token(layout),
        "CLOUDFLARE_ACCOUNT_ID": platform.account_id,
        "WRANGLER_SEND_METRICS": "false",
        "WRANGLER_HIDE_BANNER": "true",
        "WRANGLER_SEND_ERROR_REPORTS": "false",
        "CLOUDFLARE_CF_FETCH_ENABLED": "false",
    }


@click.command()
@with_here
def env(here: Here) -> None:
    """Print the environment that wrangler needs. For a shell: eval "$(kythera env)"."""
    found = environment(here.layout)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in found.items()]
    here.show(found, "\n".join(lines))


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@STATE
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def wrangler(state: Path, args: tuple[str, ...]) -> None:
    """Run wrangler against this platform. For example: kythera wrangler -- deploy

    The project's own wrangler is taken, else the one on PATH, else npx fetches one. Its exit
    code is passed on. (--json belongs to wrangler here.)
    """
    own = {name: text for name, text in os.environ.items() if name not in OVERRULING}
    variables = {**own, **environment(layout_at(state))}
    command = [*find_wrangler(Path.cwd(), os.environ), *args]
    os.execvpe(command[0], command, variables)


def find_wrangler(folder: Path, variables: Mapping[str, str]) -> list[str]:
    """Return the command that runs wrangler for a project in `folder`. Raises SetupError."""
    search = variables.get("PATH", os.defpath)
    for parent in (folder, *folder.parents):
        own = parent / "node_modules" / ".bin" / "wrangler"
        if own.exists():
            return [str(own)]
    if shutil.which("wrangler", path=search):
        return ["wrangler"]
    node, npx = shutil.which("node", path=search), shutil.which("npx", path=search)
    if node is None or npx is None:
        raise SetupError(
            "wrangler needs Node.js, which is not on PATH.",
            remedy="Install Node.js 20 or newer with npm; or use `kythera deploy`, "
            "which needs neither.",
        )
    return [npx, "--yes", wrangler_for(node_major(node))]


def wrangler_for(major: int) -> str:
    """Return the wrangler package that runs on this Node. Pure."""
    return WRANGLER_NEWEST if major >= NODE_FOR_NEWEST else WRANGLER_FOR_NODE_20


def node_major(node: str) -> int:
    """Ask Node for its major version; 0 when it does not say."""
    try:
        done = subprocess.run(
            [node, "--version"],
            capture_output=True,
            text=True,
            timeout=NODE_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    digits = done.stdout.strip().removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdecimal() else 0
