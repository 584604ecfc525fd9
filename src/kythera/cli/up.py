"""`kythera up`: reads the options, checks what can be known before anything starts, and hands over
to the keeper. Imports little, for this process is the keeper and lives long."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kythera.cli.command import Here, with_here
from kythera.model.errors import SetupError
from kythera.model.limits import Limits

if TYPE_CHECKING:
    from kythera.node.up_options import UpOptions

HTTPS_ADDRESS = "127.0.0.1:8443"
"""Where the HTTPS door is when certificates are named and no address."""


def parse_limits(pairs: tuple[str, ...]) -> Limits:
    """Return the limits with `NAME=VALUE` pairs applied. Refuses unknown names and wrong types."""
    known = {field.name for field in msgspec.structs.fields(Limits)}
    chosen: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--limit {pair}: write it as NAME=VALUE.")
        if name not in known:
            raise click.UsageError(f"--limit {name}: there is no such limit.{_near(name, known)}")
        chosen[name] = value
    try:
        return msgspec.convert(chosen, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"--limit: {error}.") from None


def _near(name: str, known: set[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" Near it: {', '.join(found)}." if found else " They are named in model/limits.py."


@click.command()
@click.option("--http", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
@click.option("--api", default="127.0.0.1:8787", show_default=True, metavar="HOST:PORT")
@click.option("--https", default="", metavar="HOST:PORT", help="Needs --tls-certificates.")
@click.option(
    "--tls-certificates",
    type=click.Path(exists=True, path_type=Path),
    help="A PEM file (chain and key), or a folder of them; opens the HTTPS door.",
)
@click.option(
    "--domain", default="", help="<worker>.<domain> serves  [default: localhost, or the fleet's]."
)
@click.option(
    "--join",
    default="",
    envvar="KYTHERA_JOIN",
    metavar="TOKEN",
    help="Become a machine of the fleet that made TOKEN  [default: $KYTHERA_JOIN].",
)
@click.option(
    "--site", default="", metavar="NAME", help="Machines that share a network  [default: local]."
)
@click.option("--region", default="", metavar="NAME", help="Sites of one jurisdiction.")
@click.option("--world", default="", metavar="NAME", help="Regions of one planet.")
@click.option(
    "--mesh",
    default="",
    metavar="HOST:PORT",
    help="Where the fleet's other machines reach this one; port 0 picks a free one"
    "  [default: 127.0.0.1:0, which only machines on this host can reach].",
)
@click.option("--advertise", default="", metavar="HOST:PORT", help="What they dial instead.")
@click.option(
    "--secrets-key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The keys that seal secrets, 0600, one a line, instead of one in the state folder"
    "  [default: as at the last start].",
)
@click.option("--machine", default="", help="This machine's name  [default: its hostname].")
@click.option(
    "--egress-allow",
    multiple=True,
    metavar="CIDR",
    help="What workers' fetch may reach beside the public internet; repeat it.",
)
@click.option(
    "--s3",
    default="",
    metavar="HOST:PORT",
    help="Where R2's buckets are open to clients of S3, with the keys in STATE/data/r2/s3.json"
    "  [default: nowhere].",
)
@click.option(
    "--r2-endpoint",
    default="",
    metavar="URL",
    help="An S3 endpoint with conditional writes that keeps R2's objects, instead of this machine's"
    " own engine (`own`)  [default: as at the last start].",
)
@click.option(
    "--r2-key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Its key, 0600: JSON with access_key_id and secret_access_key.",
)
@click.option(
    "--require-isolation",
    type=click.Choice(["strict"]),
    help="Refuse to start where cells cannot be shut in whole; kythera doctor says what is missing.",
)
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Repeat it.")
@click.option(
    "--example/--no-example", default=False, help="Deploy examples/hello when there is no worker."
)
@with_here
def up(here: Here, **chosen: Any) -> int:
    """Start the platform on this machine; Ctrl-C stops it.

    Name, site, region, world, mesh address and --secrets-key are remembered from start to start.
    With --json the first line on stdout is the event `ready`; logs go to stderr.
    """
    options = resolve(here, chosen)
    if chosen["example"]:
        start_example(here)
    from kythera.node.keeper import run

    return run(options)


def resolve(here: Here, chosen: dict[str, Any]) -> "UpOptions":
    """Return the keeper's options for what was typed."""
    from kythera.node.up_options import UpOptions

    certificates = chosen["tls_certificates"]
    given_keys = chosen["secrets_key"]
    https = chosen["https"] or (HTTPS_ADDRESS if certificates is not None else "")
    return UpOptions(
        state=here.layout.state.absolute(),
        http=chosen["http"],
        https=https,
        api=chosen["api"],
        domain=chosen["domain"].lower().strip("."),
        site=chosen["site"],
        region=chosen["region"],
        world=chosen["world"],
        mesh=chosen["mesh"],
        join=chosen["join"],
        advertise=chosen["advertise"],
        machine=chosen["machine"],
        tls_certificates=str(certificates.absolute()) if certificates is not None else "",
        secrets_key=str(given_keys.absolute()) if given_keys is not None else "",
        egress_allow=("public", *chosen["egress_allow"]),
        s3=chosen["s3"],
        r2_endpoint=chosen["r2_endpoint"],
        r2_key=str(chosen["r2_key"].absolute()) if chosen["r2_key"] is not None else "",
        strict=chosen["require_isolation"] == "strict",
        json=here.json,
        limits=parse_limits(chosen["limits"]),
    )


def start_example(here: Here) -> None:
    """Start the small process that deploys the example as soon as the API answers."""
    import subprocess

    import kythera

    folder = Path(kythera.__file__).parents[2] / "examples" / "hello"
    if not folder.is_dir():
        raise SetupError(f"there is no {folder}.", remedy="Start without --example.")
    deployer = [
        *(sys.executable, "-m", "kythera.cli.example"),
        *("--state", str(here.layout.state.absolute())),
        *("--keeper", str(os.getpid()), str(folder)),
    ]
    # Through a shell that ends at once: the keeper waits only for children that it started itself,
    # and the deployer, nobody's child, ends with its work or with the keeper.
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", *deployer],
        stdin=subprocess.DEVNULL,
        stdout=2 if here.json else None,
        check=True,
    )
