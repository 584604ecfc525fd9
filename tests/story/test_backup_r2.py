"""A backup of a platform whose Worker keeps objects, taken while it writes more."""

import subprocess
from pathlib import Path

import pytest

from tests.node.r2_running import give_bucket
from tests.platforms import COMMAND, clean_environment, running

pytestmark = [pytest.mark.real, pytest.mark.story]


def test_objects_come_back_from_a_backup(tmp_path: Path) -> None:
    """Goal: what was acknowledged before the backup is in it, small and large."""
    file, again = tmp_path / "kythera.tar", tmp_path / "again"
    kept = {f"k{n}": bytes([n]) * (10 ** (n % 7)) for n in range(14)}
    with running(tmp_path / "first") as platform:
        give_bucket(platform, "cases", "bucket-1")
        for key, data in kept.items():
            assert platform.get("cases", f"/{key}", method="PUT", content=data).status_code == 200
        done = platform.kythera("backup", "create", str(file))
        assert done.returncode == 0, done.stderr
        assert platform.get("cases", "/later", method="PUT", content=b"1").status_code == 200
    argv = [*COMMAND, "backup", "restore", "--state", str(again), str(file)]
    done = subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    with running(again) as platform:
        for key, data in kept.items():
            assert platform.get("cases", f"/{key}").content == data, platform.tail()
        assert platform.get("cases", "/new", method="PUT", content=b"2").status_code == 200
        assert platform.get("cases", "/new").content == b"2"
