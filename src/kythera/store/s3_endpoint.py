"""Where S3 is spoken, and who may speak it: records that cost nothing to import.

The agent writes them for the engine and knows nothing of HTTP or signatures, whose libraries cost a
tenth of a second of every start.
"""

from msgspec import Struct

REGION = "auto"


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where S3 is spoken, and in whose name."""

    url: str
    access_key: str
    secret_key: str
    region: str = REGION
    prefix: str = ""
    """Before each bucket's name."""
    socket: str = ""
    """A unix socket; empty: the URL's host and port."""


class Keys(Struct, frozen=True):
    """Who may speak S3 here."""

    access_key_id: str
    secret_access_key: str
