"""From a project's entry file to the modules of a version: esbuild bundles, as wrangler does.

Imported .wasm/.txt/.html/.sql/.bin files (and those of the project's rules) stay modules of their
own (esbuild's `copy` loader keeps the import and renames its target by content). Node's and
Cloudflare's own modules stay imports. A bundle without exports is service-worker format.
"""

import json
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kythera
from kythera.cli.project import Project
from kythera.model.errors import KytheraError, SetupError

BUNDLE_S = 120
"""A bundler that takes longer is stuck."""
ES_MODULE = "application/javascript+module"
SCRIPT = "application/javascript"
SOURCE_MAP = "application/source-map"
NODE_MODULES = (
    "assert async_hooks buffer child_process cluster console constants crypto dgram "
    "diagnostics_channel dns domain events fs http http2 https inspector module net os path "
    "perf_hooks process punycode querystring readline repl stream string_decoder sys timers tls "
    "tty url util v8 vm wasi worker_threads zlib"
).split()
SUBPATHS = (
    "assert/strict dns/promises fs/promises path/posix path/win32 readline/promises "
    "stream/consumers stream/promises stream/web timers/promises util/types"
).split()
REQUIRE = (
    'import{createRequire as __kythera_require}from"node:module";'
    'const require=__kythera_require("/");'
)
"""Gives CommonJS packages inside an ES bundle Node's own modules."""
PLATFORMS = {("Linux", "x86_64"): "linux-x64", ("Linux", "aarch64"): "linux-arm64",
             ("Darwin", "arm64"): "darwin-arm64", ("Darwin", "x86_64"): "darwin-x64"}  # fmt: skip


class BundleError(KytheraError):
    """The code could not be bundled; the message is esbuild's own, with file and line."""


@dataclass(frozen=True)
class Part:
    """One module to upload."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Bundle:
    """All modules of a version; `main` is the name of the first."""

    main: str
    service_worker: bool
    parts: tuple[Part, ...]


def esbuild_binary(start: Path | None = None) -> Path:
    """Return the pinned esbuild. $KYTHERA_ESBUILD names another. Raises SetupError."""
    named = os.environ.get("KYTHERA_ESBUILD")
    folder = PLATFORMS.get((platform.system(), platform.machine()), "linux-x64")
    tail = Path("node_modules", "@esbuild", folder, "bin", "esbuild")
    root = start or Path(kythera.__file__).parents[2]
    found = Path(named) if named else root / tail
    if found.is_file():
        return found
    raise SetupError(
        f"esbuild is not installed ({found}).",
        remedy="Run `make setup` in Kythera's folder, or set KYTHERA_ESBUILD to a binary.",
    )


def bundle(project: Project) -> Bundle:
    """Return the project's modules. Raises BundleError with esbuild's message."""
    assert project.main is not None
    if project.no_bundle:
        return collect(project)
    with tempfile.TemporaryDirectory(prefix="kythera-bundle-") as folder:
        outdir = Path(folder).resolve()
        output = run_esbuild(project, outdir)
        if _calls_require(output) and project.nodejs:
            output = run_esbuild(project, outdir, (f"--banner:js={REQUIRE}",))
        if not output["exports"]:
            return _service_worker(project, outdir)
        return read_output(project, outdir, output)


def arguments(project: Project, outdir: Path) -> list[str]:
    """Return esbuild's command line for a project, without the binary. Pure."""
    assert project.main is not None
    node = NODE_MODULES + SUBPATHS if project.nodejs else []
    return [
        str(project.main),
        *("--bundle", "--format=esm", "--platform=browser", "--target=es2024"),
        *("--conditions=workerd,worker,browser", "--loader:.js=jsx", "--loader:.mjs=jsx"),
        *("--external:node:*", "--external:cloudflare:*", "--external:workerd:*"),
        *(f"--alias:{name}=node:{name}" for name in node),
        *(f"--loader:{suffix}=copy" for suffix in project.rules),
        '--define:navigator.userAgent="Cloudflare-Workers"',
        *("--asset-names=[hash]-[name]", "--entry-names=[name]", f"--outdir={outdir}"),
        *(f"--metafile={outdir / 'meta.json'}", "--log-level=warning", "--color=false"),
        *(("--sourcemap",) if project.source_maps else ()),
        *project.esbuild,
    ]


def run_esbuild(project: Project, outdir: Path, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Bundle into `outdir`; return the metafile's entry for the main module."""
    command = [str(esbuild_binary()), *arguments(project, outdir), *extra]
    try:
        done = subprocess.run(
            command,
            cwd=project.folder,
            capture_output=True,
            text=True,
            timeout=BUNDLE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"esbuild did not end within {BUNDLE_S} s.") from None
    if done.returncode != 0:
        raise BundleError(f"the code cannot be bundled.\n{done.stderr.strip()}", remedy=_hint(done))
    meta = json.loads((outdir / "meta.json").read_text())
    return next(each for each in meta["outputs"].values() if each.get("entryPoint"))


def _hint(done: "subprocess.CompletedProcess[str]") -> str:
    if "Could not resolve" not in done.stderr:
        return "Mend the code and deploy again."
    if any(f'"{name}"' in done.stderr for name in NODE_MODULES + SUBPATHS):
        return 'For Node\'s own modules set "compatibility_flags": ["nodejs_compat"].'
    return "Install the package (npm install) or mend the import."


def _calls_require(output: dict[str, Any]) -> bool:
    calls = (each for each in output["imports"] if each["kind"] == "require-call")
    return any(each.get("external") for each in calls)


def read_output(project: Project, outdir: Path, output: dict[str, Any]) -> Bundle:
    """Return what esbuild wrote as parts, named as the code imports them."""
    assert project.main is not None
    main = f"{project.main.stem}.js"
    copied = (Path(each["path"]).name for each in output["imports"] if not each.get("external"))
    parts = [
        Part(main, ES_MODULE, (outdir / main).read_bytes()),
        *(_copied(project, outdir, name) for name in copied),
    ]
    if project.source_maps:
        text = (outdir / f"{main}.map").read_text()
        parts.append(Part(f"{main}.map", SOURCE_MAP, map_for(project.folder, outdir, text)))
    return Bundle(main, False, tuple({part.name: part for part in parts}.values()))


def map_for(folder: Path, outdir: Path, text: str) -> bytes:
    """Return a source map whose sources are named from the project's folder, as its author does."""
    document = json.loads(text)
    document["sources"] = [
        os.path.relpath(os.path.normpath(outdir / source), folder) for source in document["sources"]
    ]
    return json.dumps(document).encode()


def _copied(project: Project, outdir: Path, name: str) -> Part:
    """Return one copied module; `name` may carry a query such as `?module`."""
    file = outdir / name.partition("?")[0]
    return Part(name, project.rules[file.suffix], file.read_bytes())


def _service_worker(project: Project, outdir: Path) -> Bundle:
    assert project.main is not None
    output = run_esbuild(project, outdir, ("--format=iife",))
    if output["imports"]:
        raise BundleError(
            f"{project.main.name} exports nothing, so it is service-worker format, "
            f"but it imports {output['imports'][0]['path']}.",
            remedy="Write an ES module: export default { fetch(request, env) { … } }",
        )
    main = f"{project.main.stem}.js"
    return Bundle(main, True, (Part(main, SCRIPT, (outdir / main).read_bytes()),))


def collect(project: Project) -> Bundle:
    """Return the files of a project that wants no bundling: main first, paths kept."""
    assert project.main is not None
    base = (project.base_folder or project.main.parent).resolve()
    types = {".js": ES_MODULE, ".mjs": ES_MODULE, ".py": "text/x-python", **project.rules}
    found = [path for path in sorted(base.rglob("*")) if _collectable(path, base, types)]
    files = [project.main, *(path for path in found if path != project.main)]
    if project.main.suffix not in (".js", ".mjs"):
        raise BundleError(
            f"no_bundle: {project.main.name} is not JavaScript.",
            remedy="Compile it first, or remove no_bundle.",
        )
    parts = [
        Part(path.relative_to(base).as_posix(), types[path.suffix], path.read_bytes())
        for path in files
    ]
    return Bundle(parts[0].name, False, tuple(parts))


def _collectable(path: Path, base: Path, types: dict[str, str]) -> bool:
    inside = path.relative_to(base).parts
    hidden = any(part.startswith(".") or part == "node_modules" for part in inside)
    return path.is_file() and path.suffix in types and not hidden
