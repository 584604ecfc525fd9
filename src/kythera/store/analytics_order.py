"""What is asked of a query's process (`analytics_query`), and what it says. Pure."""

from msgspec import Struct


class Order(Struct, frozen=True):
    """What is asked, by whom, and how much it may take."""

    folder: str
    account: str
    sql: str
    memory_mib: int
    rows_max: int


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What came of it."""

    text: str = ""
    format: str = "JSON"
    error: str = ""
    """In DuckDB's words, where the query is wrong."""
