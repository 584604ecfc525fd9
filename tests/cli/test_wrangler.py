"""Which wrangler is run, and with which environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from kythera.cli.wrangler import NODE_FOR_NEWEST, find_wrangler, node_major, wrangler_for
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError
from tests.cli.fake_api import TOKEN


def program(path: Path, text: str = "") -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_projects_own_wrangler_comes_first(tmp_path: Path) -> None:
    """Upwards from the folder, as node finds packages; then PATH."""
    own = program(tmp_path / "node_modules" / ".bin" / "wrangler")
    elsewhere = program(tmp_path / "bin" / "wrangler")
    inside = tmp_path / "packages" / "a"
    inside.mkdir(parents=True)
    variables = {"PATH": str(elsewhere.parent)}
    assert find_wrangler(inside, variables) == [str(own)]
    own.unlink()
    assert find_wrangler(inside, variables) == ["wrangler"]


def test_without_any_npx_fetches_one_that_this_node_runs(tmp_path: Path) -> None:
    """Node 20 cannot run the newest."""
    program(tmp_path / "node", "echo v20.20.2")
    npx = program(tmp_path / "npx")
    assert find_wrangler(tmp_path, {"PATH": str(tmp_path)}) == [
        str(npx),
        "--yes",
        "wrangler@4.86.0",
    ]
    assert wrangler_for(NODE_FOR_NEWEST) == "wrangler@4"


def test_a_node_that_does_not_answer_counts_as_old(tmp_path: Path) -> None:
    """Better an old wrangler than none."""
    assert node_major(str(program(tmp_path / "node", "exit 1"))) == 0
    assert node_major(str(tmp_path / "missing")) == 0


def test_without_node_the_way_without_node_is_named(tmp_path: Path) -> None:
    """A clear error, and the alternative."""
    with pytest.raises(SetupError, match=r"needs Node\.js") as caught:
        find_wrangler(tmp_path, {"PATH": str(tmp_path)})
    assert "kythera deploy" in caught.value.remedy


def test_wrangler_gets_our_environment_and_its_arguments_untouched(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--json is wrangler's; a key of Cloudflare's own never travels along; the exit code passes."""
    script = 'echo "$@" > said; env > environment; exit 7'
    program(tmp_path / "node_modules" / ".bin" / "wrangler", script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDFLARE_API_KEY", "theirs")
    argv = [sys.executable, "-m", "kythera.cli", "wrangler", "--state", str(layout.state)]
    done = subprocess.run([*argv, "versions", "list", "--json"], timeout=30, check=False)
    assert done.returncode == 7
    assert (tmp_path / "said").read_text() == "versions list --json\n"
    variables = (tmp_path / "environment").read_text().splitlines()
    assert f"CLOUDFLARE_API_TOKEN={TOKEN}" in variables
    assert "WRANGLER_HIDE_BANNER=true" in variables
    assert not [line for line in variables if line.startswith("CLOUDFLARE_API_KEY")]
