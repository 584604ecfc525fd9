"""Old and new Kytheras share one log: what an old one does not understand changes nothing there."""

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from kythera.distribute.address import address_at
from kythera.distribute.jetstream import open_log
from kythera.ground.layout import Layout
from tests.platforms import RunningPlatform, running
from tests.processes import wait_until

pytestmark = [pytest.mark.real, pytest.mark.story]

CODE = "export default { fetch: () => new Response('%s') };"


def write(platform: RunningPlatform, key: str, document: dict[str, Any]) -> None:
    """Write a record as another version of Kythera would."""

    async def append() -> None:
        address = address_at(Layout(platform.state).log_address)
        assert address is not None
        async with open_log(address) as log:
            await log.append(key, json.dumps(document).encode())

    anyio.run(append)


def unknown(platform: RunningPlatform) -> set[str]:
    """Return the keys that a machine says it cannot read."""
    (machine,) = platform.status()["machines"]
    return set(machine["unknown_records"])


def test_what_a_newer_kythera_wrote_leaves_the_last_good_state(tmp_path: Path) -> None:
    """A newer schema and an unknown kind: served as before, also after a restart, and said so; when
    a record that is understood follows, it counts."""
    state = tmp_path / "state"
    with running(state) as platform:
        platform.upload("shop", CODE % "old")
        platform.wait_for("shop", "old")
        account = platform.account_id
        newer = {"schema": sys.maxsize, "account": account, "name": "shop", "surprise": [1]}
        write(platform, f"worker.{account}.shop", newer)
        write(platform, "moonbase.one", {"schema": 1})
        keys = {f"worker.{account}.shop", "moonbase.one"}
        wait_until(lambda: unknown(platform) == keys, "it says what it cannot read", deadline_s=10)
        assert platform.get("shop").text == "old"
    with running(state) as platform:
        wait_until(lambda: unknown(platform) == keys, "it still says so", deadline_s=10)
        platform.upload("other", CODE % "also served")
        platform.wait_for("other", "also served")
        write(platform, "moonbase.one", {"schema": 1, "again": True})
        assert unknown(platform) == keys
