"""Reading a binding to a D1 database. Whether the database is there, `control/resources.py` asks."""

from collections.abc import Mapping
from typing import Any

from kythera.deploy.refusals import invalid
from kythera.model.names import VERSION_ID


def database_id(name: str, fields: Mapping[str, Any]) -> str:
    """Return which database is meant. Raises Refusal (10021) without the id of a database."""
    found = fields.get("id", fields.get("database_id"))
    if not isinstance(found, str) or VERSION_ID.fullmatch(found) is None:
        raise invalid(
            f"binding {name} of type d1 must have a valid `id` specified",
            remedy="`wrangler d1 list` shows the ids of all databases.",
        )
    return found
