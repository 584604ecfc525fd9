"""Hyperdrive's configurations: where a PostgreSQL database is, and how to log in there.

Pure but for the sealing. The password is in the record as an envelope that opens at that record alone,
and in no answer. Refuses other databases than PostgreSQL, mTLS, and Cloudflare's own ways to a database
(Access, VPC), by name.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kythera.deploy.bindings import Seals
from kythera.deploy.documents import as_amount, as_object, as_text, shown
from kythera.deploy.shared_secrets import place_of
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.names import is_hostname
from kythera.model.records import Resource

HYPERDRIVE = "hyperdrive"
BAD, ABSENT, TAKEN, TOO_MANY = 2008, 2001, 2017, 2016
SCHEMES = ("postgres", "postgresql")
TEXT_CHARACTERS_MAX = 1_024
OFFERED = frozenset({"scheme", "host", "port", "database", "user", "password"})
NO_CACHE = {"disabled": True}


def config_of(catalog: Catalog, account: str, config_id: str) -> Resource:
    """Return one configuration. Raises Refusal (404)."""
    found = catalog.resource(account, HYPERDRIVE, config_id)
    if found is None:
        raise Refusal(ABSENT, f"There is no Hyperdrive config {config_id[:80]!r}.", status=404)
    return found


def password_of(config: Resource, seals: Seals) -> str:
    """Return the password. Raises KytheraError."""
    return seals.open(config.fields["sealed"], place_of(config))


def view(config: Resource) -> dict[str, Any]:
    """Return a configuration as the API shows it: never its password."""
    fields = config.fields
    origin = {name: fields[name] for name in ("scheme", "host", "port", "database", "user")}
    return {
        "id": config.id,
        "name": config.name,
        "origin": origin,
        "caching": NO_CACHE,
        "mtls": {"sslmode": fields["sslmode"]} if fields["sslmode"] else {},
        "origin_connection_limit": fields["connections"],
        "created_on": config.created_on,
        "modified_on": fields["modified_on"],
    }


def made(
    document: Mapping[str, Any], blank: Resource, seals: Seals, now: str, limits: Limits
) -> Resource:
    """Return the configuration that a document makes of a blank one."""
    origin = as_object(document.get("origin"), "origin")
    missing = sorted(OFFERED - {"port", "scheme"} - set(origin))
    if missing:
        raise Refusal(BAD, f"origin has no {missing[0]}.")
    start = {"scheme": "postgres", "port": 5432, "sslmode": "", "connections": 0}
    return changed(document, msgspec.structs.replace(blank, fields=start), seals, now, limits)


def changed(
    document: Mapping[str, Any], before: Resource, seals: Seals, now: str, limits: Limits
) -> Resource:
    """Return a configuration with what a document says of it."""
    origin = as_object(document.get("origin") or {}, "origin")
    foreign = sorted(set(origin) - OFFERED)
    if foreign:
        raise Refusal(
            BAD,
            f"origin.{foreign[0][:80]} is not offered: this platform reaches a database by its"
            " host and port.",
        )
    fields = {**before.fields, **_origin(origin), "modified_on": now}
    fields["sslmode"] = _sslmode(document.get("mtls"), fields["sslmode"])
    fields["connections"] = _connections(document, fields["connections"], limits)
    name = before.name if document.get("name") is None else _text(document["name"], "name")
    after = msgspec.structs.replace(before, name=name, fields=fields)
    if origin.get("password") is None:
        return after
    password = _text(origin["password"], "origin.password")
    sealed = {"sealed": seals.seal(password, place_of(after))}
    return msgspec.structs.replace(after, fields={**fields, **sealed})


def refuse_taken(catalog: Catalog, wanted: Resource, limits: Limits) -> None:
    """Refuse a name that is used, and more configurations than may be."""
    others = [c for c in catalog.resources(wanted.account, HYPERDRIVE) if c.id != wanted.id]
    if any(config.name == wanted.name for config in others):
        raise Refusal(TAKEN, f"There is a Hyperdrive config {wanted.name!r} already.", status=409)
    if len(others) >= limits.hyperdrive_configs_max:
        raise Refusal(
            TOO_MANY,
            f"There are {len(others)} Hyperdrive configs, as many as may be (limit"
            " hyperdrive_configs_max).",
            status=429,
        )


def _origin(origin: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "scheme" in origin:
        if origin["scheme"] not in SCHEMES:
            raise Refusal(
                BAD,
                f"{shown(origin['scheme'])} databases are not offered, PostgreSQL is.",
                remedy="Begin the connection string with postgres://",
            )
        found["scheme"] = origin["scheme"]
    if "host" in origin:
        found["host"] = _host(as_text(origin["host"], "origin.host").strip("[]").lower())
    if "port" in origin:
        found["port"] = as_amount(origin["port"], "origin.port", most=65_535)
    for name in ("database", "user"):
        if name in origin:
            found[name] = _text(origin[name], f"origin.{name}")
    return found


def _host(text: str) -> str:
    is_ipv6 = ":" in text and set(text) <= set("0123456789abcdef:.")
    if not is_hostname(text) and not is_ipv6:
        raise Refusal(BAD, f"{shown(text)} is no host.")
    return text


def _sslmode(mtls: Any, before: str) -> str:
    asked = as_object(mtls or {}, "mtls")
    if asked.get("ca_certificate_id") or asked.get("mtls_certificate_id"):
        raise Refusal(BAD, "Certificates of Hyperdrive are not offered; sslmode require is.")
    mode = asked.get("sslmode", before)
    if mode not in ("", "require"):
        raise Refusal(BAD, f"sslmode {shown(mode)} is not offered; require is.")
    return str(mode)


def _connections(document: Mapping[str, Any], before: int, limits: Limits) -> int:
    most = limits.hyperdrive_connections_max
    asked = document.get("origin_connection_limit")
    if asked is None:
        return before or most
    return as_amount(asked, "origin_connection_limit", most=most)


def _text(value: Any, what: str) -> str:
    text = as_text(value, what)
    if not text or len(text) > TEXT_CHARACTERS_MAX or "\0" in text:
        raise Refusal(BAD, f"{what} has 1 to {TEXT_CHARACTERS_MAX:,} characters.")
    return text
