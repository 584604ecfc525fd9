"""wrangler's triggers: routes, custom domains and the worker's own hostname."""

import json
from pathlib import Path

import pytest

from tests.platforms import RunningPlatform
from tests.processes import wait_until
from tests.wranglers import Wrangler, says, write_project

pytestmark = pytest.mark.story


def wait_for_url(platform: RunningPlatform, url: str, text: str) -> None:
    """Wait until a public URL answers with this text."""
    wait_until(lambda: text in platform.fetch(url).text, f"{url} answers {text!r}", deadline_s=5)


@pytest.mark.set1("deploy-routes", "deploy-routes-again", "triggers-routes")
def test_routes_and_custom_domains_lead_to_the_worker(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a path below a host, a whole host; the next deploy replaces all of them."""
    name, platform = wrangler.name("routes"), wrangler.platform
    api, app = f"api-{wrangler.mark}.example.com", f"app-{wrangler.mark}.example.com"
    config = {
        "name": name,
        "routes": [
            {"pattern": f"{api}/v1/*", "zone_name": "example.com"},
            {"pattern": app, "custom_domain": True},
        ],
    }
    project = write_project(tmp_path, config, {"index.js": says("routed")})
    wrangler.do("deploy", project=project)
    wait_for_url(platform, f"http://{api}/v1/x", "routed")
    wait_for_url(platform, f"http://{app}/anything", "routed")
    assert platform.fetch(f"http://{api}/v2/x").status_code == 404
    wrangler.do("deploy", project=project)
    wait_for_url(platform, f"http://{api}/v1/x", "routed")

    config["routes"] = [{"pattern": f"{api}/v2/*", "zone_name": "example.com"}]
    write_project(project, config, {"index.js": says("routed")})
    wrangler.do("triggers", "deploy", project=project)
    wait_for_url(platform, f"http://{api}/v2/x", "routed")
    gone = f"http://{api}/v1/x"
    wait_until(lambda: platform.fetch(gone).status_code == 404, "the old route is gone")


@pytest.mark.set1("triggers-deploy")
def test_the_workers_own_hostname_can_be_switched_off_and_on(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: `workers_dev` decides whether `<worker>.<domain>` serves."""
    name, platform = wrangler.name("hostname"), wrangler.platform
    platform.upload(name, says("by name"))
    platform.wait_for(name, "by name")
    for enabled, status in ((False, 404), (True, 200)):
        config = {"name": name, "workers_dev": enabled}
        project = write_project(tmp_path, config, {"index.js": says("by name")})
        wrangler.do("triggers", "deploy", project=project)
        expected = status
        wait_until(
            lambda expected=expected: platform.get(name).status_code == expected,  # type: ignore[misc]
            f"workers_dev={json.dumps(enabled)} answers {status}",
        )
