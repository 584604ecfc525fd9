"""An object's key as the engine's: one flat name for each key, in the same order.

The engine keeps objects in folders: `a//b` becomes `a/b`, a backslash becomes a slash, and lists are
ordered folder by folder, so that a page may begin in the wrong place. So no key of ours has a folder in
it: four letters are written as two. Promises: two keys never share a name, names sort as their keys do,
and a prefix of a key is a prefix of its name. Pure.
"""

KEY_BYTES_MAX = 1_024
"""Cloudflare's, and the engine's for the name."""
_WRITTEN = {".": ".0", "/": ".1", "[": "[0", "\\": "[1"}
_READ = {written: letter for letter, written in _WRITTEN.items()}
_TABLE = str.maketrans(_WRITTEN)
LAST = "\U0010ffff"
"""Sorts behind every other letter."""


def engine_name(key: str) -> str:
    """Return the engine's name of a key, or of a key's beginning."""
    return key.translate(_TABLE)


def key_of(name: str) -> str:
    """Return the key again."""
    letters: list[str] = []
    place = 0
    while place < len(name):
        found = _READ.get(name[place : place + 2])
        letters.append(name[place] if found is None else found)
        place += 1 if found is None else 2
    return "".join(letters)


def fits(key: str) -> bool:
    """Tell whether a key can be kept."""
    return 0 < len(engine_name(key).encode(errors="replace")) <= KEY_BYTES_MAX
