"""The secrets store: secrets of an account that many workers are bound to, sealed at rest.

Pure but for the sealing. Two kinds of resources: stores, and secrets in them. A secret's text is in its
record as an envelope that opens at that record alone. Refuses what Cloudflare's store refuses: no
name, a text that is too long, too many of either.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kythera.deploy.bindings import Seals
from kythera.deploy.documents import as_list, as_text, as_texts, shown
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Resource

STORE, SECRET = "secrets_store", "secrets_store_secret"
STORE_ABSENT, SECRET_ABSENT, TAKEN, TOO_MANY, BAD = 1001, 1002, 1003, 1004, 1005
NAME_CHARACTERS_MAX = 255
COMMENT_CHARACTERS_MAX = 1_024
SCOPES_MAX = 20


def store_of(catalog: Catalog, account: str, store_id: str) -> Resource:
    """Return a store. Raises Refusal (404)."""
    found = catalog.resource(account, STORE, store_id)
    if found is None:
        raise Refusal(
            STORE_ABSENT,
            f"There is no secrets store {store_id[:80]!r}.",
            status=404,
            remedy="See what there is: wrangler secrets-store store list --remote",
        )
    return found


def secrets_in(catalog: Catalog, account: str, store_id: str) -> list[Resource]:
    """Return a store's secrets, by name."""
    found = catalog.resources(account, SECRET)
    return [secret for secret in found if secret.fields["store_id"] == store_id]


def secret_of(catalog: Catalog, account: str, store_id: str, secret_id: str) -> Resource:
    """Return one secret. Raises Refusal (404)."""
    store_of(catalog, account, store_id)
    found = catalog.resource(account, SECRET, secret_id)
    if found is None or found.fields["store_id"] != store_id:
        raise Refusal(
            SECRET_ABSENT, f"There is no secret {secret_id[:80]!r} in this store.", status=404
        )
    return found


def secret_named(catalog: Catalog, account: str, store_id: str, name: str) -> Resource | None:
    """Return what a binding leads to."""
    found = secrets_in(catalog, account, store_id)
    return next((secret for secret in found if secret.name == name), None)


def place_of(secret: Resource) -> str:
    """Return where a record's envelope opens, and nowhere else."""
    return f"{secret.account}/{secret.type}/{secret.id}"


def opened(secret: Resource, seals: Seals) -> str:
    """Return a secret's text. Raises KytheraError."""
    return seals.open(secret.fields["sealed"], place_of(secret))


def resealed(secret: Resource, seals: Seals) -> Resource:
    """Return the same record, sealed with the key that is used now. Raises KytheraError."""
    return with_text(secret, opened(secret, seals), seals)


def with_text(secret: Resource, text: str, seals: Seals) -> Resource:
    """Return a record with another text."""
    sealed = {"sealed": seals.seal(text, place_of(secret))}
    return msgspec.structs.replace(secret, fields={**secret.fields, **sealed})


def view_store(store: Resource) -> dict[str, Any]:
    """Return a store as the API shows it."""
    return {
        "id": store.id,
        "name": store.name,
        "created": store.created_on,
        "modified": store.created_on,
        "account_id": store.account,
    }


def view_secret(secret: Resource) -> dict[str, Any]:
    """Return a secret as the API shows it: never its text."""
    fields = secret.fields
    return {
        "id": secret.id,
        "store_id": fields["store_id"],
        "name": secret.name,
        "comment": fields["comment"],
        "scopes": list(fields["scopes"]),
        "status": "active",
        "created": secret.created_on,
        "modified": fields["modified_on"],
    }


def read_store(
    document: Any, catalog: Catalog, account: str, new_id: str, now: str, limits: Limits
) -> Resource:
    """Return the store that a document asks for. Raises Refusal."""
    name = _name(document.get("name"), "a store's name")
    there = catalog.resources(account, STORE)
    if any(store.name == name for store in there):
        raise Refusal(TAKEN, f"There is a secrets store {name!r} already.", status=409)
    if len(there) >= limits.secrets_stores_max:
        raise _too_many("stores", "secrets_stores_max", limits.secrets_stores_max)
    return Resource(account=account, type=STORE, id=new_id, name=name, created_on=now)


def read_secret(
    document: Mapping[str, Any], store: Resource, new_id: str, now: str, limits: Limits
) -> tuple[Resource, str]:
    """Return the secret that a document asks for, not sealed yet, and its text. Raises Refusal."""
    text = _text(document.get("value"), limits)
    return bare(document, store, new_id, now), text


def bare(document: Mapping[str, Any], store: Resource, new_id: str, now: str) -> Resource:
    """Return a secret without a text."""
    fields = {"store_id": store.id, "scopes": [], "comment": "", **_settings(document)}
    return Resource(
        account=store.account,
        type=SECRET,
        id=new_id,
        name=_name(document.get("name"), "a secret's name"),
        created_on=now,
        fields={**fields, "modified_on": now, "text_on": now},
    )


def changed(
    secret: Resource, document: Mapping[str, Any], seals: Seals, now: str, limits: Limits
) -> Resource:
    """Return a secret with what a document says of it: its text, scopes or comment."""
    fields = {**secret.fields, **_settings(document), "modified_on": now}
    after = msgspec.structs.replace(secret, fields=fields)
    if document.get("value") is None:
        return after
    after = msgspec.structs.replace(after, fields={**fields, "text_on": now})
    return with_text(after, _text(document["value"], limits), seals)


def refuse_taken(catalog: Catalog, wanted: list[Resource], limits: Limits) -> None:
    """Refuse names that are used already in their store, and more secrets than may be."""
    for number, secret in enumerate(wanted):
        others = [each.name for each in wanted[:number]]
        there = secret_named(catalog, secret.account, secret.fields["store_id"], secret.name)
        if there is not None or secret.name in others:
            raise Refusal(
                TAKEN,
                f"There is a secret {secret.name!r} in this store already.",
                status=409,
                remedy="Change it: wrangler secrets-store secret update … --remote",
            )
    count = len(wanted) + sum(len(catalog.resources(s.account, SECRET)) for s in wanted[:1])
    if count > limits.secrets_store_secrets_max:
        raise _too_many("secrets", "secrets_store_secrets_max", limits.secrets_store_secrets_max)


def read_list(document: Any) -> list[Mapping[str, Any]]:
    """Return the entries of a list of objects. Raises Refusal."""
    found = as_list(document, "The body")
    if not found or not all(isinstance(entry, dict) for entry in found):
        raise Refusal(BAD, "The body has to be a list of secrets, one at least.")
    return found


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if document.get("scopes") is not None:
        found["scopes"] = [scope.strip() for scope in as_texts(document["scopes"], "scopes")]
        if len(found["scopes"]) > SCOPES_MAX or any(len(s) > 64 for s in found["scopes"]):
            raise Refusal(BAD, f"A secret has {SCOPES_MAX} scopes at most, of 64 characters.")
    if document.get("comment") is not None:
        found["comment"] = as_text(document["comment"], "comment")
        if len(found["comment"]) > COMMENT_CHARACTERS_MAX:
            raise Refusal(BAD, f"A comment has {COMMENT_CHARACTERS_MAX} characters at most.")
    return found


def _name(value: Any, what: str) -> str:
    text = as_text(value, what)
    if not text or len(text) > NAME_CHARACTERS_MAX or any(c.isspace() for c in text):
        raise Refusal(
            BAD,
            f"{shown(text)} cannot be {what}.",
            remedy=f"Use 1 to {NAME_CHARACTERS_MAX} characters without blanks.",
        )
    return text


def _text(value: Any, limits: Limits) -> str:
    text = as_text(value, "a secret's value")
    if not text or len(text.encode(errors="replace")) > limits.secrets_store_bytes_max:
        raise Refusal(
            BAD, f"A secret's value has 1 to {limits.secrets_store_bytes_max:,} bytes of text."
        )
    return text


def _too_many(what: str, limit: str, most: int) -> Refusal:
    return Refusal(
        TOO_MANY,
        f"There are {most} {what} already, as many as may be (limit {limit}).",
        status=429,
        remedy="Delete one, or raise the limit: kythera up --limit NAME=VALUE",
    )
