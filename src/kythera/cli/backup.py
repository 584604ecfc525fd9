"""`kythera backup create | restore`: everything in one file, and back."""

from pathlib import Path

import click
import msgspec

from kythera.cli.command import Here, with_here

KEYS_IN = "It holds the API token and the key of all secrets: keep it as you keep those."
KEYS_GIVEN = (
    "It holds the API token, and not the keys of the secrets, which you give: keep those too, and "
    "name them when you start what is restored: kythera up --secrets-key FILE."
)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


def elsewhere(url: str) -> str:
    """Return a line about R2's objects where another endpoint keeps them."""
    told = f"R2's objects are not in it: they are at {url}, to be backed up there.\n"
    return told if url else ""


@click.group()
def backup() -> None:
    """Put everything into one file.

    And make a platform of such a file again.
    """


@backup.command("create")
@FILE
@click.option("--partial", is_flag=True, help="Though not all code is on this machine.")
@with_here
def create(here: Here, file: Path, *, partial: bool) -> None:
    """Write everything to one file.

    Records, code, keys and what workers keep go to a new FILE (0600), as of one moment; for some
    milliseconds those who write there stand still.
    It reads this machine's own copy, so it works while the platform runs, and while the log or
    every other machine is gone. A machine that is not core may lack code that it never ran.
    """
    from kythera.distribute.archive import back_up

    about = back_up(here.layout, file, partial=partial)
    lacks = f"It lacks {about.blobs_missing} blobs that are not on this machine.\n"
    text = (
        f"{file}: {about.records} records as of {about.seq}, {about.blobs} blobs,"
        f" {about.data_files} files of workers' data.\n"
        f"{lacks if about.blobs_missing else ''}"
        f"{elsewhere(about.objects_elsewhere)}"
        f"{KEYS_GIVEN if about.keys_given else KEYS_IN}"
    )
    here.show({"file": str(file), **msgspec.to_builtins(about)}, text)


@backup.command("restore")
@FILE
@with_here
def restore(here: Here, file: Path) -> None:
    """Make a new platform from a backup.

    It is made in --state DIR; `kythera up` then serves it.
    """
    from kythera.distribute.archive import restore as fill

    about = fill(file, here.layout)
    named = (
        f" --r2-endpoint {about.objects_elsewhere} --r2-key FILE" if about.objects_elsewhere else ""
    )
    text = (
        f"{here.layout.state} holds {about.records} records and {about.blobs} blobs.\n"
        f"{elsewhere(about.objects_elsewhere)}"
        f"Start it: kythera up --state {here.layout.state}{named}"
    )
    here.show({"state": str(here.layout.state), **msgspec.to_builtins(about)}, text)
