"""wrangler's deploy commands, both versions, against a running platform.

Method everywhere: run the real command, then look at its effect through the front door.
"""

import json
from pathlib import Path

import pytest

from tests.platforms import RunningPlatform
from tests.wranglers import Wrangler, says, write_project

pytestmark = pytest.mark.story

ADD_WASM = bytes.fromhex(
    "0061736d 01000000  0107 01 60 02 7f7f 01 7f  0302 0100  0707 01 03616464 0000"
    "0a09 01 07 00 2000 2001 6a 0b"
)
"""(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))"""


@pytest.mark.set1("whoami", "whoami-json", "whoami-account")
def test_whoami_names_the_account(wrangler: Wrangler) -> None:
    """Goal: the token is accepted and says whose it is."""
    account = wrangler.platform.account_id
    assert account in wrangler.do("whoami").text
    document = wrangler.do("whoami", "--json").json()
    assert [entry["id"] for entry in document["accounts"]] == [account]
    assert account in wrangler.do("whoami", "--account", account).text


@pytest.mark.set1("deploy-first", "deploy-again")
def test_a_project_is_deployed_and_deployed_again(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: the everyday command. The second time the worker exists and takes another path."""
    name, platform = wrangler.name("hello"), wrangler.platform
    project = write_project(tmp_path, {"name": name}, {"index.js": says("first")})
    first = wrangler.do("deploy", project=project)
    platform.wait_for(name, "first")
    (project / "index.js").write_text(says("second"))
    again = wrangler.do("deploy", "--message", "second", "--tag", "t2", project=project)
    platform.wait_for(name, "second")
    ids = [run.event("deploy")["version_id"] for run in (first, again)]
    listing = platform.call("GET", f"/workers/scripts/{name}/versions").json()["result"]["items"]
    assert [version["id"] for version in listing] == ids[::-1]
    assert listing[0]["annotations"]["workers/message"] == "second"
    assert listing[0]["annotations"]["workers/tag"] == "t2"
    if wrangler.version != "4.86.0":  # which always prints workers.dev
        assert f"{name}.{platform.domain}" in again.text


@pytest.mark.set1("deploy-dry")
def test_a_dry_run_touches_nothing(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: --dry-run bundles and calls nobody."""
    name = wrangler.name("dry")
    project = write_project(tmp_path, {"name": name}, {"index.js": says("dry")})
    wrangler.do("deploy", "--dry-run", "--outdir", "out", project=project)
    assert (project / "out" / "index.js").exists()
    assert wrangler.platform.call("GET", f"/workers/services/{name}").status_code == 404


TYPESCRIPT = """
import { Buffer } from "node:buffer";
import add from "./add.wasm";
import text from "./text.txt";
import data from "./data.bin";
interface Env { GREETING: string; LIMITS: { depth: number }; VERSION: { id: string } }
export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const instance = await WebAssembly.instantiate(add);
    const sum = (instance.exports.add as (a: number, b: number) => number)(20, 22);
    return Response.json({ sum, text, data: Array.from(new Uint8Array(data)),
      greeting: env.GREETING, depth: env.LIMITS.depth, version: env.VERSION.id,
      encoded: Buffer.from("hi").toString("base64") });
  },
};
"""


@pytest.mark.set1("deploy-tswasm")
def test_typescript_with_wasm_text_data_and_node_modules_runs(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: every kind of module and of plain binding arrives whole."""
    name = wrangler.name("tswasm")
    config = {
        "name": name,
        "main": "index.ts",
        "compatibility_flags": ["nodejs_compat"],
        "vars": {"GREETING": "hello", "LIMITS": {"depth": 3}},
        "version_metadata": {"binding": "VERSION"},
    }
    files: dict[str, str | bytes] = {
        "index.ts": TYPESCRIPT,
        "add.wasm": ADD_WASM,
        "text.txt": "a text",
        "data.bin": bytes([0, 1, 255]),
    }
    run = wrangler.do("deploy", project=write_project(tmp_path, config, files))
    wrangler.platform.wait_for(name, "hello")
    assert wrangler.platform.get(name).json() == {
        "sum": 42,
        "text": "a text",
        "data": [0, 1, 255],
        "greeting": "hello",
        "depth": 3,
        "version": run.event("deploy")["version_id"],
        "encoded": "aGk=",
    }


SERVICE_WORKER = """
addEventListener("fetch", (event) => event.respondWith(new Response("old style " + GREETING)));
"""


@pytest.mark.set1("deploy-sw")
def test_the_service_worker_format_runs(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: old projects run; their bindings are globals."""
    name = wrangler.name("sw")
    config = {"name": name, "vars": {"GREETING": "hello"}}
    project = write_project(tmp_path, config, {"index.js": SERVICE_WORKER})
    wrangler.do("deploy", project=project)
    wrangler.platform.wait_for(name, "old style hello")


@pytest.mark.set1("deploy-assetsonly", "deploy-assetsonly-again")
def test_a_folder_of_files_is_a_site_and_changes_with_the_next_deploy(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: assets without code; only what changed is uploaded again."""
    name, platform = wrangler.name("site"), wrangler.platform
    config = {"name": name, "assets": {"directory": "public", "not_found_handling": "404-page"}}
    files: dict[str, str | bytes] = {
        "public/index.html": "<h1>home</h1>",
        "public/about.html": "<h1>about</h1>",
        "public/404.html": "<h1>lost</h1>",
        "public/app.css": "h1 { color: teal }",
        "public/_headers": "/app.css\n  X-Asset: yes\n",
        "public/_redirects": "/old /about 301\n",
    }
    project = write_project(tmp_path, config, files)
    wrangler.do("deploy", project=project)
    platform.wait_for(name, "<h1>home</h1>")
    assert "about" in platform.get(name, "/about").text
    style = platform.get(name, "/app.css")
    assert style.headers["content-type"].startswith("text/css")
    assert style.headers["x-asset"] == "yes"
    match = {"If-None-Match": style.headers["etag"]}
    assert platform.get(name, "/app.css", headers=match).status_code == 304
    moved = platform.get(name, "/old")
    assert (moved.status_code, moved.headers["location"]) == (301, "/about")
    lost = platform.get(name, "/nowhere")
    assert (lost.status_code, lost.text) == (404, "<h1>lost</h1>")
    (project / "public" / "index.html").write_text("<h1>new home</h1>")
    wrangler.do("deploy", project=project)
    platform.wait_for(name, "<h1>new home</h1>")


ASSETS_WORKER = """
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/api") return Response.json({ made: "by code" });
    return env.ASSETS.fetch(request);
  },
};
"""


@pytest.mark.set1("deploy-assetsworker")
def test_assets_and_code_serve_side_by_side(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a site with an API; the code may ask for the files too."""
    name, platform = wrangler.name("assetsworker"), wrangler.platform
    config = {"name": name, "assets": {"directory": "public", "binding": "ASSETS"}}
    files = {"index.js": ASSETS_WORKER, "public/index.html": "<h1>files</h1>"}
    wrangler.do("deploy", project=write_project(tmp_path, config, files))
    platform.wait_for(name, "<h1>files</h1>")
    assert platform.get(name, "/api").json() == {"made": "by code"}


@pytest.mark.set1("deploy-nobundle")
def test_modules_are_served_as_they_are_without_a_bundler(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: --no-bundle; imports between uploaded modules work, folders included."""
    name = wrangler.name("nobundle")
    config = {
        "name": name,
        "find_additional_modules": True,
        "rules": [{"type": "ESModule", "globs": ["**/*.js"]}],
    }
    main = 'import { word } from "./lib/word.js";\n' + says("x").replace('"x"', "word")
    files = {"index.js": main, "lib/word.js": 'export const word = "unbundled";\n'}
    project = write_project(tmp_path, config, files)
    wrangler.do("deploy", "--no-bundle", project=project)
    wrangler.platform.wait_for(name, "unbundled")


PYTHON = """
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("hello")
"""


@pytest.mark.set1("deploy-python")
def test_a_python_worker_is_refused_in_words(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: what we do not run is refused by name, and nothing is stored."""
    name = wrangler.name("python")
    config = {"name": name, "main": "main.py", "compatibility_flags": ["python_workers"]}
    project = write_project(tmp_path, config, {"main.py": PYTHON})
    refused = wrangler.refuse("deploy", project=project)
    assert "Python" in refused.text
    assert wrangler.platform.call("GET", f"/workers/services/{name}").status_code == 404


@pytest.mark.set1("deploy-env")
def test_an_environment_is_a_worker_of_its_own(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: --env staging serves as `<name>-staging` with that environment's variables."""
    name = wrangler.name("env")
    config = {
        "name": name,
        "vars": {"WHERE": "production"},
        "env": {"staging": {"vars": {"WHERE": "staging"}}},
    }
    code = "export default { fetch(r, env) { return new Response(env.WHERE) } }"
    project = write_project(tmp_path, config, {"index.js": code})
    wrangler.do("deploy", "--env", "staging", project=project)
    wrangler.platform.wait_for(f"{name}-staging", "staging")
    assert wrangler.platform.get(name).status_code == 404


@pytest.mark.set1("no-account-id", "deploy-last-from-api")
def test_a_deploy_finds_its_account_and_takes_over_what_the_api_made(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: no CLOUDFLARE_ACCOUNT_ID needed; a worker uploaded without wrangler is no obstacle."""
    name, platform = wrangler.name("taken-over"), wrangler.platform
    platform.upload(name, says("by the api"))
    platform.wait_for(name, "by the api")
    project = write_project(tmp_path, {"name": name}, {"index.js": says("by wrangler")})
    wrangler.do("deploy", project=project, environment={"CLOUDFLARE_ACCOUNT_ID": None})
    platform.wait_for(name, "by wrangler")


@pytest.mark.set1("delete", "delete-noforce")
def test_a_deleted_worker_is_gone(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: both ways to delete end in 404 at the door and nothing at the API."""
    platform = wrangler.platform
    for option in (["--force"], []):
        name = wrangler.name(f"gone{len(option)}")
        platform.upload(name, says("still here"))
        platform.wait_for(name, "still here")
        project = write_project(tmp_path / name, {"name": name}, {"index.js": says("x")})
        wrangler.do("delete", *option, project=project)
        platform.wait_for(name, "", deadline_s=5)
        _wait_for_status(platform, name, 404)
        assert platform.call("GET", f"/workers/services/{name}").status_code == 404


def _wait_for_status(platform: RunningPlatform, name: str, status: int) -> None:
    from tests.processes import wait_until

    wait_until(lambda: platform.get(name).status_code == status, f"{name} answers {status}")


def test_a_wrong_token_is_refused_in_cloudflares_words(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: error 10000, which wrangler explains."""
    project = write_project(tmp_path, {"name": "x"}, {"index.js": says("x")})
    stranger = {"CLOUDFLARE_API_TOKEN": "not-the-token"}
    refused = wrangler.refuse("deploy", project=project, environment=stranger)
    assert "10000" in refused.text


def test_a_binding_that_is_not_offered_is_refused_by_name(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: never dropped silently. The message names the binding and what is offered."""
    name = wrangler.name("queue")
    config = {"name": name, "vectorize": [{"binding": "STATS", "index_name": "x"}]}
    project = write_project(tmp_path, config, {"index.js": says("x")})
    refused = wrangler.refuse("deploy", project=project)
    assert "STATS" in refused.text
    assert "Vectorize" in refused.text
    assert wrangler.platform.call("GET", f"/workers/services/{name}").status_code == 404


BROKEN = {
    "throws": ('export const x = 1;\nthrow new Error("no config");\n', "no config"),
    "loops": ("while (true) {}\n", "CPU"),
    "missing": ('import "./not-there.js";\n', "not-there.js"),
}
"""Top-level code that cannot start, and a word of what the owner must be told."""


@pytest.mark.parametrize("kind", BROKEN)
def test_code_that_does_not_start_is_refused_with_its_own_message(
    wrangler: Wrangler, tmp_path: Path, kind: str
) -> None:
    """Goal: 10021 before it serves anything, and the version that served goes on."""
    name, platform = wrangler.name(f"broken-{kind}"), wrangler.platform
    platform.upload(name, says("good"))
    code, word = BROKEN[kind]
    files = {"index.js": code + says("bad")}
    refused = wrangler.refuse(
        "deploy", "--no-bundle", project=write_project(tmp_path, {"name": name}, files)
    )
    assert "10021" in refused.text
    assert word in refused.text
    platform.wait_for(name, "good")


def test_an_error_at_start_points_into_the_source_file(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: with a source map the message names the file and line that a person wrote."""
    name = wrangler.name("mapped")
    source = (
        "interface A { a: string }\n\nfunction start(): A {\n  throw new Error('at start');\n}\n"
    )
    files = {"index.ts": source + "const a = start();\n" + says("x").replace('"x"', "a.a")}
    config = {"name": name, "main": "index.ts", "upload_source_maps": True}
    refused = wrangler.refuse("deploy", project=write_project(tmp_path, config, files))
    assert "at start" in refused.text
    assert "index.ts:4" in refused.text


def test_the_output_of_a_deploy_can_be_read_by_a_program(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: WRANGLER_OUTPUT_FILE_PATH names a worker tag and the version."""
    name = wrangler.name("output")
    project = write_project(tmp_path, {"name": name}, {"index.js": says("x")})
    event = wrangler.do("deploy", project=project).event("deploy")
    assert event["worker_name"] == name
    service = wrangler.platform.call("GET", f"/workers/services/{name}").json()["result"]
    assert event["worker_tag"] in (None, service["default_environment"]["script"]["tag"])
    assert json.dumps(event["targets"])
