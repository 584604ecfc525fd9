"""JSON with comments and trailing commas, as wrangler.jsonc has them. Pure.

Comments become blanks, so that a syntax error still names the line and column of the file.
"""

import json
import re
from typing import Any

TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*")|(?P<comment>//[^\n]*|/\*.*?\*/)""", re.DOTALL
)
TRAILING_COMMA = re.compile(r"""("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])""")
NOT_NEWLINE = re.compile(r"[^\n]")


def strip(text: str) -> str:
    """Return plain JSON of the same length and lines; strings are left as they are."""

    def blank(match: re.Match[str]) -> str:
        if match["comment"] is not None:
            return NOT_NEWLINE.sub(" ", match["comment"])
        return match[0]

    plain = TOKEN.sub(blank, text.removeprefix("\ufeff"))
    return TRAILING_COMMA.sub(lambda match: match[1] or " ", plain)


def loads(text: str) -> Any:
    """Parse JSONC. Raises json.JSONDecodeError with the place in the original text."""
    return json.loads(strip(text))
