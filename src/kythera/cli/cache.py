"""`kythera cache purge`: what shall be in no machine's cache any more."""

from collections.abc import Sequence
from typing import Any

import click

from kythera.cli.command import Here, with_here


@click.group("cache")
def cache() -> None:
    """Purge what workers have put into the cache. They do by `caches.default` and `caches.open`."""


@cache.command("purge")
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--host", "hosts", multiple=True, help="All of a host; may be given more than once.")
@click.option("--prefix", "prefixes", multiple=True, help="All below HOST/PATH.")
@click.option("--tag", "tags", multiple=True, help="All with this Cache-Tag.")
@click.option("--everything", is_flag=True, help="All that there is.")
@with_here
def purge(
    here: Here,
    urls: Sequence[str],
    hosts: Sequence[str],
    prefixes: Sequence[str],
    tags: Sequence[str],
    everything: bool,
) -> None:
    """Purge these URLs, with all their variants, from all caches of the account."""
    body = _asked(urls, hosts, prefixes, tags, everything=everything)
    if not body:
        raise click.UsageError("Name a URL, --host, --prefix, --tag, or --everything.")
    with here.client() as client:
        done = client.purge(body)
    here.show(done, "Purged here; other machines follow as soon as they have heard of it.")


def _asked(
    urls: Sequence[str],
    hosts: Sequence[str],
    prefixes: Sequence[str],
    tags: Sequence[str],
    *,
    everything: bool,
) -> dict[str, Any]:
    lists = {"files": urls, "hosts": hosts, "prefixes": prefixes, "tags": tags}
    body: dict[str, Any] = {name: list(found) for name, found in lists.items() if found}
    return {**body, **({"purge_everything": True} if everything else {})}
