"""Hostnames that a token for some workers must leave alone, because others are reached there.

Pure. Routes win over custom domains, and these over `<worker>.<domain>`: without this, who may set
routes of one worker could lead another's visitors to it. What a worker has already, it keeps, so
somebody with a token for all workers can give it any hostname once.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from kythera.control.caller import Caller, Forbidden
from kythera.deploy.documents import shown
from kythera.deploy.triggers import HOSTNAME_TAKEN, PATTERN_TAKEN
from kythera.model.catalog import Catalog
from kythera.route.patterns import PatternError, parse_pattern


class Hosts(NamedTuple):
    """One host, or all that end so (`open`)."""

    name: str
    open: bool = False

    def meets(self, other: "Hosts") -> bool:
        """Tell whether there is a host that belongs to both."""
        if self.open and other.open:
            return self.name.endswith(other.name) or other.name.endswith(self.name)
        if self.open:
            return other.name.endswith(self.name)
        return self.name.endswith(other.name) if other.open else self.name == other.name


def hosts_of(pattern: str) -> Hosts:
    """Return the hosts of a route pattern that was checked before."""
    read = parse_pattern(pattern)
    return Hosts(read.host, read.host_open)


def refuse_others_routes(
    caller: Caller | None,
    wanted: Iterable[str],
    had: Collection[str],
    catalog: Catalog,
    domain: str,
) -> None:
    """Refuse new route patterns of a worker that meet what is not the caller's."""
    for pattern in wanted:
        if pattern not in had and _is_anothers(caller, hosts_of(pattern), catalog, domain):
            raise _refusal(PATTERN_TAKEN, f"route {shown(pattern)}")


def refuse_others_domains(
    caller: Caller | None,
    wanted: Iterable[str],
    had: Collection[str],
    catalog: Catalog,
    domain: str,
) -> None:
    """Refuse new custom domains of a worker that meet what is not the caller's."""
    for hostname in wanted:
        if hostname not in had and _is_anothers(caller, Hosts(hostname), catalog, domain):
            raise _refusal(HOSTNAME_TAKEN, f"hostname {shown(hostname)}")


def _refusal(code: int, what: str) -> Forbidden:
    return Forbidden(
        code,
        f"The {what} meets what is, or may become, another Worker's; this API token is for some"
        " workers only.",
        status=403,
        remedy="Have somebody with a token for all workers set it once: what is there stays.",
    )


def _is_anothers(caller: Caller | None, hosts: Hosts, catalog: Catalog, domain: str) -> bool:
    if caller is None or not caller.workers:
        return False
    own = {Hosts(f"{worker}.{domain}") for worker in caller.workers}
    if hosts not in own and hosts.meets(Hosts(f".{domain}", open=True)):
        return True
    return any(hosts.meets(other) for other in _of_others(caller, catalog))


def _of_others(caller: Caller, catalog: Catalog) -> Iterator[Hosts]:
    """Yield the hosts of custom domains and routes of workers that are not the caller's."""
    for worker in catalog.workers():
        if caller.sees(worker.name):
            continue
        yield from map(Hosts, catalog.domains(worker.account, worker.name).hostnames)
        for route in catalog.routes(worker.account, worker.name).routes:
            try:
                yield hosts_of(route.pattern)
            except PatternError:
                continue  # a newer Kythera's kind of pattern: it leads nowhere here
