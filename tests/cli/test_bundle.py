"""From source files to modules, with the real esbuild: what wrangler would have uploaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from kythera.cli import bundle, project
from kythera.cli.bundle import BundleError
from kythera.model.errors import SetupError


def bundled(folder: Path, files: dict[str, str], **more: Any) -> bundle.Bundle:
    """Write files, the first of which is `main`, and bundle them."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    document = {"name": "w", "main": next(iter(files)), "compatibility_date": "2026-01-01"}
    (folder / "wrangler.json").write_text(json.dumps({**document, **more}))
    return bundle.bundle(project.read(folder))


def names(found: bundle.Bundle) -> list[str]:
    """Return the kinds of the parts by name, without esbuild's content marks."""
    return [part.name.rpartition("-")[2] for part in found.parts]


def test_typescript_becomes_one_module_and_its_map(tmp_path: Path) -> None:
    """Types go, imports are followed, the map is sent so that errors name the source."""
    found = bundled(
        tmp_path,
        {
            "src/index.ts": 'import { hi } from "./hi"; export default { fetch: () => hi() };',
            "src/hi.ts": "export const hi = (): Response => new Response('hi');",
        },
    )
    assert (found.main, found.service_worker) == ("index.js", False)
    assert names(found) == ["index.js", "index.js.map"]
    assert b"sourceMappingURL=index.js.map" in found.parts[0].data
    assert json.loads(found.parts[1].data)["sources"] == ["src/hi.ts", "src/index.ts"]


def test_imported_files_stay_modules_of_their_own(tmp_path: Path) -> None:
    """wasm, text, html and bin keep their content types; the code imports the uploaded name."""
    found = bundled(
        tmp_path,
        {
            "index.js": "import a from './a.wasm'; import t from './t.txt'; import h from './h.html';"
            "import m from './a.wasm?module';"
            "export default { fetch: () => new Response(t + h + a + m) };",
            "a.wasm": "\0asm",
            "t.txt": "text",
            "h.html": "<p>",
        },
        upload_source_maps=False,
    )
    by_name = {part.name: part for part in found.parts}
    kinds = {name.rpartition("-")[2]: part.content_type for name, part in by_name.items()}
    assert kinds == {
        "index.js": bundle.ES_MODULE,
        "a.wasm": "application/wasm",
        "a.wasm?module": "application/wasm",
        "t.txt": "text/plain",
        "h.html": "text/plain",
    }
    code = by_name["index.js"].data.decode()
    assert all(f'"./{name}"' in code for name in by_name if name != "index.js")


def test_rules_of_the_project_add_module_kinds(tmp_path: Path) -> None:
    """`rules` with **/*.md as Text, as in wrangler's documentation."""
    found = bundled(
        tmp_path,
        {"index.js": "import t from './a.md'; export default { t };", "a.md": "# hi"},
        rules=[{"type": "Text", "globs": ["**/*.md"]}],
        upload_source_maps=False,
    )
    assert names(found) == ["index.js", "a.md"]


def test_node_modules_need_the_compatibility_flag(tmp_path: Path) -> None:
    """Without it the error says which flag; with it both spellings become node: imports."""
    files = {"index.js": "import fs from 'fs'; import 'node:path'; export default { fs };"}
    with pytest.raises(BundleError, match="Could not resolve") as caught:
        bundled(tmp_path, files)
    assert "nodejs_compat" in caught.value.remedy
    found = bundled(tmp_path, files, compatibility_flags=["nodejs_compat"])
    assert b'from "node:fs"' in found.parts[0].data


def test_commonjs_packages_get_a_require(tmp_path: Path) -> None:
    """A package that calls require("events") at run time finds it."""
    found = bundled(
        tmp_path,
        {
            "index.js": "import E from './old.cjs'; export default { E };",
            "old.cjs": "module.exports = require('events');",
        },
        compatibility_flags=["nodejs_compat"],
    )
    assert found.parts[0].data.startswith(b"import{createRequire")


def test_code_without_exports_is_service_worker_format(tmp_path: Path) -> None:
    """Code with addEventListener at the top: one plain script."""
    found = bundled(tmp_path, {"old.js": "addEventListener('fetch', e => e.respondWith(1));"})
    assert found.service_worker
    assert [part.content_type for part in found.parts] == [bundle.SCRIPT]


def test_a_syntax_error_is_told_with_file_and_line(tmp_path: Path) -> None:
    """The words are esbuild's own, not ours."""
    with pytest.raises(BundleError, match=r"index\.js:1:8"):
        bundled(tmp_path, {"index.js": "export {{"})


def test_no_bundle_sends_the_files_with_their_paths(tmp_path: Path) -> None:
    """Main first, node_modules and hidden folders never."""
    found = bundled(
        tmp_path,
        {
            "src/index.js": "import './sub/a.js'; export default {};",
            "src/sub/a.js": "",
            "src/a.wasm": "",
            "src/notes.pdf": "",
            "src/node_modules/x/index.js": "",
        },
        no_bundle=True,
    )
    assert [part.name for part in found.parts] == ["index.js", "a.wasm", "sub/a.js"]


def test_a_missing_esbuild_says_how_to_get_it(tmp_path: Path) -> None:
    """The one program `kythera deploy` needs."""
    with pytest.raises(SetupError, match="esbuild is not installed") as caught:
        bundle.esbuild_binary(tmp_path)
    assert "make setup" in caught.value.remedy
