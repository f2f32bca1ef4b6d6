"""YAML from others can neither run code nor fill the memory of who opens it."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.storage.foreign_json import MOST_DEPTH
from system.storage.foreign_yaml import MOST_BYTES, parse_yaml


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!?|>'\"%@`#,${} \n", max_size=40) | st.binary(max_size=40))
def test_anything_is_a_value_or_an_error(text: str | bytes) -> None:
    with suppress(ValueError):
        parse_yaml(text.encode() if isinstance(text, str) else text)


def test_yaml_as_a_run_writes_it() -> None:
    assert parse_yaml(b"a: {b: [1, 1e-3, null]}\nc: ${a.b}\n") == {
        "a": {"b": [1, 0.001, None]},
        "c": "${a.b}",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 2 has an alias"),
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "more than 64 deep"),
        (b"[" * 100_000, "more than 64 deep"),
        (b"# " + b"x" * MOST_BYTES, "bytes, more than the"),
        (b"\xff", "decode"),
        (b"a: ${b", "a"),
        (b"5", "no mapping"),
        (b"!!python/object/apply:os.system ['true']", "constructor"),
    ],
)
def test_yaml_that_is_refused(text: bytes, message: str) -> None:
    """Aliases of aliases unfold to any size, since each is copied."""
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)
