"""A valid file is called broken, or a broken one is taken for a smaller one, if these fail."""

import json
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

from system.data.prepare.json_text import JsonError, JsonText, Unreadable


def items(data: bytes, chunk_bytes: int = 1) -> Iterator[Any]:
    text = JsonText(BytesIO(data), chunk_bytes)
    for _ in text.items():
        yield text.value()
    text.finish()


VALUES = [
    {"a": [1, -2.5e-3, {"b": None}], "c": True, "": 'x, \\ " ] } é 😀 \n'},
    "[{",
    12,
    -1.5e300,
    2**64 + 1,
    10**400,
    [],
    {},
    [[["deep"]]],
    float("inf"),
    float("-inf"),
    False,
]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 3])
def test_values_are_those_of_the_plain_parser_however_small_the_pieces(
    ascii: bool, indent: int | None
) -> None:
    data = json.dumps(VALUES, ensure_ascii=ascii, indent=indent).encode()
    for mark in (b"", b"\xef\xbb\xbf"):
        for chunk in (1, 2, 7, 64, 1 << 20):
            assert list(items(mark + data, chunk)) == VALUES
    (nan,) = items(b" [ NaN ] ")
    assert nan != nan


def test_random_values_are_those_of_the_plain_parser() -> None:
    lots = random.Random(5)

    def value(depth: int) -> Any:
        kind = lots.randrange(7 if depth else 5)
        if kind == 5:
            return [value(depth - 1) for _ in range(lots.randrange(4))]
        if kind == 6:
            return {text(): value(depth - 1) for _ in range(lots.randrange(4))}
        return [None, lots.random() * 10.0 ** lots.randrange(-9, 9), lots.getrandbits(70), text()][
            min(kind, 3)
        ]

    def text() -> str:
        return "".join(lots.choice('ab"\\/[]{},:\u00e9\ud800\U0001f600\x01 ') for _ in range(5))

    for _ in range(200):
        values = [value(3) for _ in range(3)]
        data = json.dumps(values, indent=lots.choice([None, 1])).encode()
        assert list(items(data, lots.randrange(1, 20))) == values


def test_every_cut_of_a_file_is_an_early_end() -> None:
    """A download that broke off must not be a smaller data set."""
    data = json.dumps([{"a": [True, "x\u00e9\\n", -1.5e-7, None]}, 2**70, "end"]).encode()
    for end in range(1, len(data)):
        for chunk in (1, 1 << 20):
            with pytest.raises(JsonError):
                list(items(data[:end], chunk))
    for cut in (b"[", b"[1", b"[1, ", b'["a', b'[{"a"', b'[{"a": [2'):
        with pytest.raises(JsonError, match=r"^it ends early$"):
            list(items(cut))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1 2]", "Expecting ',' delimiter at character 3"),
        (b"[1, ]", "Expecting value at character 4"),
        (b'["a", tru, "' + b"x" * 99 + b'"]', "Expecting value at character 6"),
        (b"[1] x", "Extra data at character 4"),
        (b'{"a": 1}', "Expecting '\\[' at character 0"),
        (b'["\xff"]', "byte 0xff near position 2 is not UTF-8"),
        (b'["a\nb"]', "Invalid control character"),
        (b"", "it is empty"),
        ("[1]".encode("utf-16"), "it is UTF-16 text"),
        ("[1]".encode("utf-16-be"), "it is UTF-16 or binary"),
        ("[1]".encode("utf-32"), "it is UTF-32 text"),
        (b"\x1f\x8b\x08rest", "it is compressed by gzip"),
        (b"<!DOCTYPE html>", "it is a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_what_is_wrong_with_a_file_is_said_as_it_is(data: bytes, message: str, chunk: int) -> None:
    with pytest.raises(JsonError, match=message):
        list(items(data, chunk))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ('{"a": 1, "b": {"c": [1], "c": [2]}}', "field 'c' is there twice, with different values"),
        ("[" * 9999 + r'"][\"" ' + "]" * 9999, "it is nested too deeply"),
        ("9" * 9999, "it holds a number of too many digits"),
        ('{"a": -' + "9" * 9999 + "}", "it holds a number of too many digits"),
    ],
)
def test_a_value_that_cannot_be_taken_costs_no_other(odd: str, reason: str) -> None:
    for chunk in (100, 1 << 20):
        found = list(items(f'["before", {odd}, {{"a": 1, "a": 1}}, [5]]'.encode(), chunk))
        assert isinstance(found[1], Unreadable)
        assert found[1].reason == reason
        assert found[:1] + found[2:] == ["before", {"a": 1}, [5]]
