"""Five captions become one that begins with a bracket, or code in a table runs, if these fail."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.data.formats.text_lists import listed


@given(st.lists(st.text(), min_size=1))
def test_json_and_python_lists_are_read_back(texts: list[str]) -> None:
    assert listed(json.dumps(texts)) == texts
    assert listed(f" {json.dumps(texts, ensure_ascii=False)}\n") == texts
    assert listed(repr(texts)) == texts
    assert listed(repr(tuple(texts))) == texts


def test_arrays_of_numpy_are_read_as_their_items() -> None:
    """Python would join the two texts to one."""
    assert listed(str(np.array(["a cat", "it's"], object))) == ["a cat", "it's"]
    assert listed("['a cat.'\n 'a dog.']") == ["a cat.", "a dog."]


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "",
        "[sic] a cat",
        "(a cat)",
        "('a cat') sat",
        "[a, b]",
        "[a cat]",
        "[",
        "(",
        "('a')",
    ],
)
def test_other_texts_are_captions(text: str) -> None:
    assert listed(text) is None


@pytest.mark.parametrize(
    "text", ['["a", "b', "['a', b]", "['a', __import__('os')]", "['a'] + ['b']", "['a',, 'b']"]
)
def test_broken_lists_are_refused_and_no_code_runs(text: str) -> None:
    with pytest.raises(ValueError, match="begins as a list of texts but is none"):
        listed(text)


def test_deep_and_long_texts_take_no_time() -> None:
    assert listed("[" * 100_000 + "]" * 100_000) is None
    assert listed("(" * 100_000) is None
    assert listed("[" + "x" * 2_000_000 + "]") is None
