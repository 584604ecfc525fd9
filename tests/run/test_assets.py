"""Static assets as files: whole or absent, times kept, nothing outside of the tree."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.blobs import Blobs
from kythera.model.errors import KytheraError, Refusal
from kythera.model.records import Asset
from kythera.run.assets import check_path, content_types, materialise, service_config, tree_name


def listed(blobs: Blobs, files: dict[str, bytes]) -> list[Asset]:
    """Return a manifest of files, their contents kept as blobs."""
    return [
        Asset(path=path, digest=blobs.put(content), size=len(content))
        for path, content in files.items()
    ]


def test_a_tree_has_every_file_with_its_blobs_time(tmp_path: Path) -> None:
    """Goal: names are taken as they are, and validators made of times are the same everywhere."""
    blobs = Blobs(tmp_path / "blobs")
    files = {"/index.html": b"one", "/a/b c%20é.txt": b"two", "/.well-known/x": b"", "/…": b"e"}
    manifest = listed(blobs, files)
    tree = materialise(manifest, blobs.path, tmp_path / "trees")
    found = {f"/{p.relative_to(tree)}": p for p in tree.rglob("*") if p.is_file()}
    assert {path: place.read_bytes() for path, place in found.items()} == files
    for asset in manifest:
        assert found[asset.path].stat().st_mtime_ns == blobs.path(asset.digest).stat().st_mtime_ns


def test_the_same_manifest_is_laid_out_once(tmp_path: Path) -> None:
    """Goal: a second cell of a version, or of another with equal files, costs nothing."""
    blobs = Blobs(tmp_path / "blobs")
    manifest = listed(blobs, {"/a": b"one", "/b": b"two"})
    tree = materialise(manifest, blobs.path, tmp_path / "trees")
    born = tree.stat().st_ino
    again = materialise(manifest[::-1], blobs.path, tmp_path / "trees")
    assert (again, again.stat().st_ino) == (tree, born)
    assert list((tmp_path / "trees").iterdir()) == [tree]


def test_another_content_is_another_tree(tmp_path: Path) -> None:
    """Goal: an old cell keeps its files while the new version's are laid out beside them."""
    blobs = Blobs(tmp_path / "blobs")
    trees = [
        materialise(listed(blobs, {"/a": text}), blobs.path, tmp_path / "trees")
        for text in (b"one", b"two")
    ]
    assert [(tree / "a").read_bytes() for tree in trees] == [b"one", b"two"]


@pytest.mark.parametrize(
    "path", ["a", "", "/", "/a/", "//a", "/../a", "/a/../../b", "/./a", "/a\0b", "/" + "x" * 256]
)
def test_a_path_that_is_no_file_below_the_tree_is_refused(path: str) -> None:
    """Goal: no manifest writes outside of its tree."""
    with pytest.raises(Refusal, match="asset path"):
        check_path(path)


@given(st.text())
def test_whatever_path_is_taken_stays_below_the_tree(path: str) -> None:
    """Goal: the same for any path at all."""
    try:
        segments = check_path(path)
    except Refusal:
        return
    place = os.path.normpath("/tree/" + "/".join(segments))
    assert place.startswith("/tree/")
    assert "/" + "/".join(segments) == path


@pytest.mark.parametrize("files", [("/a", "/a/b"), ("/a/b", "/a"), ("/a", "/a")])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    """Goal: a manifest that cannot be a tree is refused, and leaves nothing behind."""
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(b"x")
    manifest = [Asset(path=path, digest=digest, size=1) for path in files]
    with pytest.raises(Refusal, match="twice, or is a file and a folder"):
        materialise(manifest, blobs.path, tmp_path / "trees")
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_missing_blob_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Goal: half a tree never serves."""
    blobs = Blobs(tmp_path / "blobs")
    gone = Asset(path="/b", digest="0" * 64, size=1)
    with pytest.raises(KytheraError, match="gone"):
        materialise([*listed(blobs, {"/a": b"x"}), gone], blobs.path, tmp_path / "trees")
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_tree_is_named_by_paths_and_contents_alone() -> None:
    """Goal: two machines name the same tree alike, whatever the manifest's order or types."""
    one = Asset(path="/a", digest="1" * 64, size=1, content_type="text/a")
    two = Asset(path="/b", digest="2" * 64, size=1)
    plain = Asset(path="/a", digest="1" * 64, size=1)
    assert tree_name([one, two]) == tree_name([two, plain])
    assert tree_name([one]) != tree_name([two])


def test_types_that_workerd_knows_are_left_to_it() -> None:
    """Goal: only names that it cannot guess burden the door, by extension where all agree."""

    def asset(path: str, kind: str) -> Asset:
        return Asset(path=path, digest="0" * 64, size=1, content_type=kind)

    assert content_types([asset("/a.css", "text/css"), asset("/b", "")]) is None
    found = content_types(
        [
            asset("/a.yaml", "text/yaml; charset=utf-8"),
            asset("/x/B.YAML", "text/yaml; charset=utf-8"),
            asset("/feed", "application/xml"),
            asset("/plain", "application/null"),
        ]
    )
    assert found == {
        "extensions": {"yaml": "text/yaml; charset=utf-8"},
        "paths": {"/feed": "application/xml"},
    }


def test_settings_get_the_asset_services_names() -> None:
    """Goal: wrangler's keys reach workerd, unset and unknown ones do not."""
    config = {
        "html_handling": "none",
        "base_path": None,
        "_headers": "/*\n  a: b",
        "run_worker_first": ["/api/*"],
        "serve_directly": True,
    }
    assert service_config(config) == {
        "html_handling": "none",
        "headers": "/*\n  a: b",
        "run_worker_first": ["/api/*"],
    }
