"""Static assets: hashes as wrangler's, the ignore file, what is never served."""

from pathlib import Path

import pytest

from kythera.cli.static_files import (
    AssetsError,
    asset_hash,
    content_type,
    gather,
    ignore_rules,
)
from kythera.model.limits import Limits


def test_the_hash_is_the_one_that_wrangler_computes() -> None:
    """Known answers: both tools must find each other's uploads."""
    assert asset_hash(b"hello\n", ".txt") == "56638d01375d9d28c49e281774cfd32f"
    assert asset_hash(b"", "") == "af1349b9f5f9a1a6a0404dea36dcc949"


def test_a_folder_becomes_paths_hashes_and_sizes(tmp_path: Path) -> None:
    """Sub-folders keep their names; steering files are not served."""
    (tmp_path / "a").mkdir()
    for name in ("index.html", "a/b.css", "_headers", "_redirects", ".assetsignore"):
        (tmp_path / name).write_text("x")
    found = gather(tmp_path, Limits())
    assert [file.path for file in found] == ["/a/b.css", "/index.html"]
    assert [file.size for file in found] == [1, 1]
    assert found[0].content_type == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        ("*.map", "/a/b.js.map", True),
        ("*.map", "/a/b.js", False),
        ("/top.txt", "/top.txt", True),
        ("/top.txt", "/a/top.txt", False),
        ("node_modules/", "/x/node_modules/y/z.js", True),
        ("node_modules/", "/node_modules", False),
        ("a/**/c", "/a/b/b/c", True),
        ("a/**/c", "/a/c", True),
        ("a/*/c", "/a/b/b/c", False),
        ("*.txt\n!keep.txt", "/keep.txt", False),
        ("# *.txt\n\n", "/a.txt", False),
        ("drafts", "/drafts/one.html", True),
    ],
)
def test_the_ignore_file_speaks_gitignore(rules: str, path: str, ignored: bool) -> None:
    """Patterns, anchors, folders, exceptions, comments."""
    assert ignore_rules(rules)(path) is ignored


def test_a_server_module_among_the_assets_is_refused(tmp_path: Path) -> None:
    """Else its source would be served to visitors."""
    (tmp_path / "_worker.js").write_text("secret")
    with pytest.raises(AssetsError, match="would be served"):
        gather(tmp_path, Limits())
    (tmp_path / ".assetsignore").write_text("_worker.js")
    assert gather(tmp_path, Limits()) == []


def test_too_large_and_too_many_files_are_refused_by_name(tmp_path: Path) -> None:
    """Tiny limits, so that the edges are met."""
    (tmp_path / "a").write_text("1234")
    with pytest.raises(AssetsError, match="4 bytes; 3 are the most"):
        gather(tmp_path, Limits(asset_bytes_max=3))
    with pytest.raises(AssetsError, match="1 files; 0 are the most"):
        gather(tmp_path, Limits(assets_files_max=0))


def test_a_file_without_a_known_type_has_none() -> None:
    """The API takes `application/null` as: send no Content-Type."""
    assert content_type("/LICENSE") == "application/null"
    assert content_type("/a.png") == "image/png"
    assert content_type("/font.woff2") == "font/woff2"
