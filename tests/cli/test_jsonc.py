"""JSON with comments: what is a comment, what only looks like one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.cli import jsonc


def test_comments_and_trailing_commas_are_taken_away() -> None:
    """Both kinds of comment and a comma before each bracket are as if they were not there."""
    text = """{
      // the name
      "name": "hello", /* and
      more */ "flags": ["a", "b",],
    }"""
    assert jsonc.loads(text) == {"name": "hello", "flags": ["a", "b"]}


@pytest.mark.parametrize("value", ["http://x/*y*/", "a // b", ",]", '\\"//', "/* , } */"])
def test_what_stands_in_a_string_is_no_comment(value: str) -> None:
    """A URL in a variable must arrive whole."""
    assert jsonc.loads(json.dumps({"v": value}) + " // end") == {"v": value}


def test_a_syntax_error_names_the_line_of_the_file() -> None:
    """Comments become blanks, so that counting lines still works."""
    with pytest.raises(json.JSONDecodeError) as caught:
        jsonc.loads('{\n  /* two\n lines */\n  "a": b\n}')
    assert (caught.value.lineno, caught.value.colno) == (4, 8)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents)
def test_plain_json_is_left_as_it_is(document: object) -> None:
    """Whatever JSON says, JSONC says the same."""
    assert jsonc.loads(json.dumps(document, ensure_ascii=False)) == document
