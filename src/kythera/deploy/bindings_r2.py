"""Reading a binding to an R2 bucket. Whether the bucket is there, `control/buckets.py` asks. Pure."""

from collections.abc import Mapping
from typing import Any

from kythera.deploy.documents import as_text, shown
from kythera.deploy.refusals import invalid
from kythera.model.names import is_bucket_name
from kythera.model.records import Binding


def read_bucket(name: str, kind: str, fields: Mapping[str, Any], origin: object) -> Binding:
    """Return a binding to a bucket, by the bucket's name. Raises Refusal (10021)."""
    bucket = as_text(fields.get("bucket_name"), f"bucket_name of binding {name!r}")
    if not is_bucket_name(bucket):
        raise invalid(
            f"Binding {name!r}: {shown(bucket)} cannot be a bucket's name.",
            remedy="Use 3 to 63 of a-z, 0-9 and -, a letter or digit first and last.",
        )
    if fields.get("jurisdiction"):
        raise invalid(
            f"Binding {name!r}: this platform has no jurisdictions; its buckets are on your machines.",
            remedy="Leave `jurisdiction` out.",
        )
    return Binding(name=name, type=kind, fields={"bucket_name": bucket})
