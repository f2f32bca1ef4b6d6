"""A Parquet file of a few KB can not fill the memory of who opens it."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.errors import StorageError
from system.storage import foreign_tables
from system.storage.files import Folder
from system.storage.foreign_tables import MOST_TIMES, MOST_VALUES, TableGroups, read_table
from system.storage.parquet_headers import pages, row_groups

BOUND = 32 << 20
TEXT = 1 << 20  # bytes of one long text
ROWS = 50  # of it: more than the bound, if each were a copy


def encoded(table: pa.Table, **options: Any) -> bytes:
    stream = BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def repeated(rows: int, size: int = TEXT) -> pa.Array:
    indices = pa.array([0] * rows, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, ["x" * size])


def nested(rows: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), repeated(rows))


def structs(rows: int) -> pa.Array:
    return pa.StructArray.from_arrays([repeated(rows)], ["text"])


def numbers(rows: int) -> pa.Array:
    return pa.nulls(rows, pa.int64()).fill_null(7)


BOMBS: dict[str, tuple[Callable[[], pa.Array], dict[str, Any], str]] = {
    "a text that each row repeats": (lambda: repeated(ROWS), {}, "column a unfolds to more"),
    "the same in lists": (lambda: nested(ROWS), {}, r"column a\.list\.element unfolds to more"),
    "the same in structs": (lambda: structs(ROWS), {}, r"column a\.text unfolds to more"),
    "pages that decompress": (
        lambda: pa.array([b"x" * (BOUND + 1)]),
        {"use_dictionary": False},
        "it unfolds to more",
    ),
    "a run of equal numbers": (
        lambda: pa.array([True] * (MOST_VALUES + 1)),
        {},
        "more than the 8000000",
    ),
    "texts that repeat the one before": (
        lambda: pa.array(["x" * 1000] * 9),
        {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}},
        "encoding 7 is not read",
    ),
}


#: Where Arrow allocates while a bomb is read; it must outlive what is allocated there.
POOL = pa.proxy_memory_pool(pa.default_memory_pool())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From its call on, Arrow allocates in `POOL`; a table may unfold to `BOUND`."""
    monkeypatch.setattr(foreign_tables, "MOST_BYTES", BOUND)
    default = pa.default_memory_pool()
    yield lambda: pa.set_memory_pool(POOL)
    pa.set_memory_pool(default)


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_before_it_unfolds(
    tmp_path: Path, counted: Callable[[], None], kind: str
) -> None:
    make, options, message = BOMBS[kind]
    data = encoded(pa.table({"a": make()}), compression="zstd", store_schema=False, **options)
    assert len(data) * MOST_TIMES < BOUND
    (tmp_path / "a.parquet").write_bytes(data)
    named = rf"a\.parquet is not Parquet.*{message}"
    counted()
    with pytest.raises(StorageError, match=named):
        Folder.of(tmp_path).read_table("a.parquet")
    assert POOL.max_memory() <= 8 * TEXT


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "none", "data_page_version": "2.0", "data_page_size": 64},
        {"row_group_size": 7, "write_statistics": False},
        {"use_dictionary": False, "column_encoding": {"n": "DELTA_BINARY_PACKED"}},
    ],
)
def test_a_table_comes_back_whatever_wrote_it(options: dict[str, Any]) -> None:
    table = pa.table(
        {
            "n": list(range(50)),
            "s": [None if i % 7 == 0 else "t" * (i % 5) for i in range(50)],
            "l": [[{"a": float(i), "b": b"xy"}] * (i % 3) for i in range(50)],
            "f": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 100, pa.float32()), 2),
            "o": [True] * 50,
        }
    )
    assert read_table(encoded(table, **options)) == table


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"compression": "none"}])
def test_a_table_without_rows_is_read(options: dict[str, Any]) -> None:
    """A run that learns nothing has a training log of no epochs."""
    kinds = (pa.int32(), pa.string(), pa.list_(pa.float32()), pa.bool_())
    table = pa.table({str(kind): pa.array([], kind) for kind in kinds})
    assert read_table(encoded(table, **options)).equals(table)


def test_a_large_table_of_many_texts_is_read() -> None:
    """What is counted is what the rows refer to, not the most that they could."""
    rows = 100_000
    texts = ["x" * 20_000, *map(str, range(20_000))]
    table = pa.table({"s": [texts[row % len(texts)] for row in range(rows)]})
    assert read_table(encoded(table)) == table


def test_numbers_that_stay_numbers_may_be_many() -> None:
    """Features of a part are one array each; no value becomes an object."""
    table = pa.table({"a": numbers(MOST_VALUES + 1)})
    data = encoded(table, compression="zstd")
    assert read_table(data, values=False).num_rows == MOST_VALUES + 1


def test_texts_that_groups_repeat_are_read_a_group_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An accuracy matrix names a task in each of millions of rows; no reader needs all at once."""
    monkeypatch.setattr(foreign_tables, "MOST_BYTES", BOUND)
    table = pa.table({"a": repeated(ROWS)})
    data = encoded(table, compression="zstd", row_group_size=10, store_schema=False)
    with pytest.raises(pa.ArrowInvalid, match="column a unfolds to more"):
        read_table(data, values=False)
    groups = TableGroups(data)
    for _ in range(2):
        assert [group.num_rows for group in groups] == [10] * 5
    assert pa.concat_tables(groups).column("a").to_pylist() == ["x" * TEXT] * ROWS


@pytest.mark.parametrize("kind", [kind for kind in BOMBS if kind != "a run of equal numbers"])
def test_a_bomb_in_one_group_is_refused_before_it_unfolds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers may be many: no row of a group becomes an object of Python."""
    monkeypatch.setattr(foreign_tables, "MOST_BYTES", BOUND)
    make, options, message = BOMBS[kind]
    data = encoded(pa.table({"a": make()}), compression="zstd", store_schema=False, **options)
    with pytest.raises(pa.ArrowInvalid, match=message):
        TableGroups(data)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_damage_is_an_error_of_the_reader(seed: int, flips: int) -> None:
    """Whatever bytes a file has: a table, or the two kinds of errors that callers expect."""
    rng = random.Random(seed)
    data = bytearray(DAMAGED)
    for _ in range(flips):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    with suppress(pa.ArrowException, OSError):
        read_table(bytes(data))


DAMAGED = encoded(
    pa.table({"n": list(range(9)), "s": ["a", None, "b"] * 3, "l": [["x"], [], ["y", "z"]] * 3})
)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_headers_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        found = pages(BytesIO(data), 0, len(data))
        assert all(page.uncompressed >= 0 and page.values >= 0 for page in found)
    footer = data + len(data).to_bytes(4, "little") + b"PAR1"
    with suppress(ValueError):
        row_groups(BytesIO(footer), len(footer))
