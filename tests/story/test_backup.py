"""Somebody loses a machine and has a backup."""

import subprocess
from pathlib import Path

import pytest

from tests.platforms import COMMAND, clean_environment, running

pytestmark = [pytest.mark.real, pytest.mark.story]

CODE = "export default { fetch(request, env) { return new Response(`kept ${env.WORD}`); } };"


def test_a_platform_comes_back_from_its_backup(tmp_path: Path) -> None:
    """Worker, secret, token and account are there again, in a folder that had nothing."""
    file, again = tmp_path / "kythera.tar", tmp_path / "again"
    with running(tmp_path / "first") as platform:
        platform.upload("shop", CODE)
        secret = {"name": "WORD", "text": "safe", "type": "secret_text"}
        assert platform.call("PUT", "/workers/scripts/shop/secrets", json=secret).is_success
        platform.wait_for("shop", "kept safe")
        done = platform.kythera("backup", "create", str(file))
        assert done.returncode == 0, done.stderr
        before = (platform.account_id, platform.token)
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    done = subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "kythera up --state" in done.stdout
    with running(again) as platform:
        assert (platform.account_id, platform.token) == before
        platform.wait_for("shop", "kept safe", deadline_s=10)
        platform.upload("shop", CODE.replace("kept", "changed"))
        platform.wait_for("shop", "changed safe")
