"""JSON from others can neither exhaust the stack nor the memory of who opens them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.errors import StorageError
from system.storage.files import Folder
from system.storage.foreign_json import (
    MOST_BYTES,
    MOST_DEPTH,
    parse_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + b"1" + closing * depth


@settings(deadline=None)
@given(VALUES)
def test_what_json_writes_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_deepest_that_is_read(opening: bytes, closing: bytes) -> None:
    """One more, or so many that the parser itself gives up, is a ValueError like any other."""
    parse_json(nested(opening, closing, MOST_DEPTH))
    for depth in (MOST_DEPTH + 1, 100_000):
        with pytest.raises(ValueError, match="more than 64 deep"):
            parse_json(nested(opening, closing, depth))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with suppress(ValueError):
        parse_json(data)


def test_a_file_beyond_the_size_is_not_read(tmp_path: Path) -> None:
    """A sparse file takes no room on disk, and would take all memory."""
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(StorageError, match=r"a\.json .*more than the 268435456 that are read"):
        Folder.of(tmp_path).read_json("a.json")
