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


WITH_DATABASE = """export default { async fetch(request, env) {
  const { pathname } = new URL(request.url);
  if (pathname === '/make') await env.DB.exec('CREATE TABLE kept (n)');
  if (pathname === '/add') await env.DB.exec('INSERT INTO kept VALUES (1)');
  return new Response(`rows ${await env.DB.prepare('SELECT COUNT(*) AS n FROM kept').first('n')}`);
} };"""


def test_databases_come_back_from_a_backup(tmp_path: Path) -> None:
    """What a database had when the backup was made is there again, and goes on from there."""
    file, again = tmp_path / "kythera.tar", tmp_path / "again"
    with running(tmp_path / "first") as platform:
        made = platform.call("POST", "/d1/database", json={"name": "kept"}).json()["result"]
        binding = {"name": "DB", "type": "d1", "id": made["uuid"]}
        platform.upload("shop", WITH_DATABASE, bindings=[binding])
        platform.wait_for("shop", "rows 0", "/make")
        for count in range(1, 4):
            assert platform.get("shop", "/add").text == f"rows {count}"
        done = platform.kythera("backup", "create", str(file))
        assert done.returncode == 0, done.stderr
        assert platform.get("shop", "/add").text == "rows 4"
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    done = subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    with running(again) as platform:
        platform.wait_for("shop", "rows 3", deadline_s=10)
        assert platform.get("shop", "/add").text == "rows 4"
