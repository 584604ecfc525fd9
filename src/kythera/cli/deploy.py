"""`kythera deploy`: a project, or one file, becomes a served version. No wrangler, no Node."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kythera.cli import bundle, project, static_files, upload
from kythera.cli.command import Here, with_here
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits


def parse_vars(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return `NAME:VALUE` pairs as a mapping."""
    found = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name:
            raise click.UsageError(f"--var {pair}: write it as NAME:VALUE.")
        found[name] = value
    return found


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@click.option("--name", help="Deploy under this name instead of the configuration's.")
@click.option("--env", "environment", help="A named environment of the configuration.")
@click.option("--var", "pairs", multiple=True, metavar="NAME:VALUE", help="Repeat it.")
@click.option("--message", help="Why; shown by `kythera versions list`.")
@click.option("--tag", help="A name of your own for the version.")
@click.option("--dry-run", is_flag=True, help="Bundle and tell; upload nothing.")
@with_here
def deploy(
    here: Here,
    path: Path,
    name: str | None,
    environment: str | None,
    pairs: tuple[str, ...],
    message: str | None,
    tag: str | None,
    dry_run: bool,
) -> None:
    """Put a project, or one .js/.ts file, into service.

    A project is a folder with a wrangler.jsonc, .json or .toml. esbuild bundles it; secrets set
    before stay.
    """
    wanted = project.read(path, environment=environment, name=name)
    wanted = replace(wanted, vars={**wanted.vars, **parse_vars(pairs)})
    modules = bundle.bundle(wanted) if wanted.main else None
    limits = limits_of(here)
    files = static_files.gather(wanted.assets_folder, limits) if wanted.assets_folder else []
    for part in modules.parts if modules else ():
        here.note(f"  {size_text(len(part.data)):>10}  {part.name}")
    if dry_run:
        here.show(_dry(wanted, modules, files), f"{wanted.name}: nothing was uploaded (--dry-run).")
        return
    given = {upload.MESSAGE: message, upload.TAG: tag}
    annotations = {key: text for key, text in given.items() if text}
    with here.client() as client:
        done = upload.put(client, wanted, modules, files, note=here.note, annotations=annotations)
    here.show(done.as_document(), summary(done))


def limits_of(here: Here) -> Limits:
    """Return the platform's limits; the usual ones where no platform was ever started."""
    try:
        return here.layout.read_platform().limits
    except KytheraError:
        return Limits()


def size_text(size: int) -> str:
    """Return a size as a person reads it."""
    return f"{size / 1024:.2f} KiB"


def summary(done: upload.Deployed) -> str:
    """Return what a person wants to know after a deploy."""
    started = "" if done.startup_time_ms is None else f" (starts in {done.startup_time_ms} ms)"
    lines = [f"Deployed {done.worker}{started}", *(f"  {url}" for url in done.urls)]
    if not done.urls:
        lines.append("  It has no address: set workers_dev, a route or a custom domain.")
    return "\n".join([*lines, f"Version {done.version_id}"])


def _dry(
    wanted: project.Project,
    modules: bundle.Bundle | None,
    files: list[static_files.StaticFile],
) -> dict[str, Any]:
    """Return what would be uploaded."""
    parts = modules.parts if modules else ()
    if not parts and not files:
        raise KytheraError(f"{wanted.name} would be empty.", remedy="Add a main or an asset.")
    return {
        "worker": wanted.name,
        "modules": [
            {"name": part.name, "type": part.content_type, "size": len(part.data)} for part in parts
        ],
        "assets": {"files": len(files), "uploaded": 0},
        "metadata": upload.metadata(wanted, modules, steering=upload.steering(wanted)),
    }
