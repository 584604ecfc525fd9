"""Cron triggers by wrangler: set at a deploy, called when due, tried by hand, refused in words."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until
from tests.story.test_wrangler_tail import watching
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story

CODE = """
export default {
  async scheduled(controller, env, ctx) {
    console.log(`called ${controller.cron} ${controller.scheduledTime}`);
    if (controller.cron === '3 3 3 3 *') {
      controller.noRetry();
      ctx.waitUntil(scheduler.wait(300).then(() => console.log('waited')));
    }
    if (controller.cron === '1 1 1 1 *') { throw new Error('as asked'); }
    if (controller.cron === '2 2 2 2 *') { for (;;) {} }
  },
};
"""


def crons(platform: RunningPlatform, worker: str) -> list[dict[str, Any]]:
    """Return what `kythera cron list` tells of a worker."""
    done = platform.kythera("cron", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [each for each in json.loads(done.stdout) if each["worker"] == worker]


def test_triggers_come_with_a_deploy_and_go_with_the_next(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: `wrangler deploy` and `wrangler triggers deploy` replace all; what is wrong is said."""
    name, platform = wrangler.name("cron"), wrangler.platform
    config: dict[str, Any] = {"name": name, "triggers": {"crons": ["0 0 1 1 *", "0 3 * * MON-FRI"]}}
    project = write_project(tmp_path, config, {"index.js": CODE})
    wrangler.do("deploy", project=project)
    assert {each["cron"] for each in crons(platform, name)} == {"0 0 1 1 *", "0 3 * * MON-FRI"}
    config["triggers"]["crons"] = ["0 0 * * 0"]
    write_project(project, config, {"index.js": CODE})
    refused = wrangler.refuse("triggers", "deploy", project=project)
    assert "invalid cron string" in refused.text
    assert "10100" in refused.text
    config["triggers"]["crons"] = []
    write_project(project, config, {"index.js": CODE})
    wrangler.do("triggers", "deploy", project=project)
    assert crons(platform, name) == []


def test_one_is_tried_by_hand(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: `kythera cron run` tells how it ended; a loop is ended by the CPU limit."""
    name, platform = wrangler.name("tried"), wrangler.platform
    config = {"name": name, "limits": {"cpu_ms": 200}, "triggers": {"crons": ["0 0 1 1 *"]}}
    wrangler.do("deploy", project=write_project(tmp_path, config, {"index.js": CODE}))
    done = platform.kythera("cron", "run", name)
    assert done.returncode == 0, done.stderr
    assert "0 0 1 1 * ended with ok" in done.stdout
    for cron, outcome in (("1 1 1 1 *", "exception"), ("2 2 2 2 *", "exceededCpu")):
        failed = platform.kythera("cron", "run", name, "--cron", cron)
        assert failed.returncode == 1
        assert f"ended with {outcome}" in failed.stderr
    assert platform.kythera("cron", "run", name, "--cron", "0 0").returncode == 1


def test_a_tail_shows_the_call(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: `wrangler tail` shows the expression, the time, the console and the exception."""
    name, platform = wrangler.name("shown"), wrangler.platform
    platform.upload(name, CODE)
    project = write_project(tmp_path, {"name": name}, {"index.js": CODE})
    with watching(wrangler, project, "--format", "json") as tail:

        def called() -> object:
            return platform.kythera("cron", "run", name, "--cron", "1 1 1 1 *")

        tail.until(lambda _: len(tail.events()) > 0, called)
        event = tail.events()[0]
        assert event["outcome"] == "exception"
        assert event["event"]["cron"] == "1 1 1 1 *"
        assert event["event"]["scheduledTime"] > 1_700_000_000_000
        assert event["logs"][0]["message"][0].startswith("called 1 1 1 1 *")
        assert event["exceptions"][0]["message"] == "as asked"


def test_what_a_handler_waits_for_is_waited_for(platform: RunningPlatform) -> None:
    """Goal: `ctx.waitUntil` belongs to the call, and `noRetry` does no harm."""
    platform.upload("waits", CODE)
    done = platform.kythera("cron", "run", "waits", "--cron", "3 3 3 3 *", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["took_ms"] >= 290


@pytest.mark.real
def test_due_calls_are_made_once_and_missed_ones_made_up_for(tmp_path: Path) -> None:
    """Goal: a minute's call comes once; one that was missed while nothing ran comes after the start.

    Method: the worker's console in the journal, over two minutes and a `kill -9`."""
    with running(tmp_path / "state") as platform:
        platform.upload("clock", CODE)
        wanted = [{"cron": "* * * * *"}]
        assert platform.call("PUT", "/workers/scripts/clock/schedules", json=wanted).is_success
        wait_until(lambda: crons(platform, "clock")[0]["runs"] == 1, "it was called", deadline_s=75)
        (end,) = crons(platform, "clock")[0]["last"]
        assert end["outcome"] == "ok"
        platform.kill()
    missed = (int(time.time()) // 60 + 1) * 60
    wait_until(lambda: time.time() > missed + 1, "a minute has passed", deadline_s=75)
    with running(tmp_path / "state") as platform:
        wait_until(lambda: crons(platform, "clock")[0]["runs"] == 2, "made up for", deadline_s=20)
        newest = crons(platform, "clock")[0]["last"][0]
        assert newest["slot"] == missed
        assert platform.log.read_text().count("called * * * * *") == 2
