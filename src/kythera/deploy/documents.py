"""Reading JSON that anybody may have sent: every shape is checked before it is used.

Pure. What is wrong becomes a `Refusal` that names the field. Nesting is bounded, so that what was
read can also be written back.
"""

import datetime
from typing import Any

import msgspec

from kythera.deploy.refusals import invalid, unreadable
from kythera.model.errors import Refusal

DEPTH_MAX = 64
SHOWN_CHARACTERS_MAX = 80


def read_json(data: bytes, what: str) -> Any:
    """Return the JSON document in `data`, whatever its content type was said to be."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise unreadable(f"{what} is not JSON: {error}.") from None
    if is_deeper_than(document, DEPTH_MAX):
        raise unreadable(f"{what} is nested more than {DEPTH_MAX} levels deep.")
    return document


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`; nothing at all counts as an empty one."""
    return as_object(read_json(data or b"{}", what), what)


def is_deeper_than(document: Any, levels: int) -> bool:
    """Tell whether arrays and objects are nested more than `levels` deep."""
    layer = [document]
    for _ in range(levels + 1):
        layer = [
            inner
            for value in layer
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not layer:
            return False
    return True


def shown(value: Any) -> str:
    """Return a value as a message may show it: short, on one line."""
    text = repr(value)
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return text[: SHOWN_CHARACTERS_MAX - 1] + "…"


def as_object(value: Any, what: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object."""
    if not isinstance(value, dict):
        raise wrong(value, what, "an object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    """Return `value` if it is a JSON array."""
    if not isinstance(value, list):
        raise wrong(value, what, "an array")
    return value


def as_text(value: Any, what: str) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise wrong(value, what, "a string")
    return value


def as_moment(value: Any, what: str) -> float:
    """Return a moment in Unix seconds; without a zone it is in UTC."""
    try:
        moment = datetime.datetime.fromisoformat(as_text(value, what))
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise invalid(
            f"{what} {shown(value)} is no moment.", remedy="Write it as 2027-01-31T00:00:00Z."
        ) from None


def as_amount(value: Any, what: str, *, least: int = 1, most: int) -> int:
    """Return `value` if it is a whole number within its bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(
            f"{what} is {shown(value)}; it has to be a whole number from {least:,} to {most:,}.",
            remedy="Change it in the configuration and deploy again.",
        )
    return value


def as_texts(value: Any, what: str) -> list[str]:
    """Return `value` if it is an array of strings."""
    return [as_text(item, f"an entry of {what}") for item in as_list(value, what)]


def as_flag(value: Any, what: str) -> bool:
    """Return `value` if it is true or false."""
    if not isinstance(value, bool):
        raise wrong(value, what, "true or false")
    return value


def as_number(value: Any, what: str) -> float:
    """Return `value` if it is a number that arithmetic can use."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(value, what, "a number")
    try:
        return float(value)
    except OverflowError:
        raise wrong(value, what, "a number of reasonable size") from None


def wrong(value: Any, what: str, wanted: str) -> Refusal:
    """Say that a value has the wrong shape; never the value, which may be a secret."""
    return invalid(f"{what} must be {wanted}, not {_shape(value)}.")


def _shape(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"
