"""A record is not what comes back from its shard if these fail."""

from dataclasses import replace

import pytest

from system.data.shards.schema import (
    SHARD_SCHEMA,
    SPANNED_SCHEMA,
    Expression,
    ImageRecord,
    Instance,
    Mask,
    record_from_row,
    records_to_table,
)

BARE = ImageRecord(str(1 << 70), "ä/b.png", b"\0png", 20, 16, ("one", "two"), "a task", (), ())
CAT = Instance((0.5, 0.0, 2.25, 3.0), "cat", "animal", Mask(16, 20, b"08`9"))
FULL = replace(BARE, instances=(CAT, CAT), expressions=(Expression(1, "the cat"),))


@pytest.mark.parametrize("records", [[], [BARE], [FULL, BARE, FULL]])
def test_records_come_back_as_they_were(records: list[ImageRecord]) -> None:
    table = records_to_table(records)
    assert table.schema.equals(SHARD_SCHEMA)
    assert [record_from_row(row) for row in table.to_pylist()] == records


def test_spans_and_further_objects_come_back_and_older_rows_have_none() -> None:
    """Rows of earlier versions stay readable; those without spans keep their bytes."""
    told = replace(FULL, expressions=(Expression(1, "the cat", ((4, 7), (0, 3)), (0,)),))
    table = records_to_table([told, FULL], SPANNED_SCHEMA)
    assert table.schema.equals(SPANNED_SCHEMA)
    assert [record_from_row(row) for row in table.to_pylist()] == [told, FULL]
    (plain,) = records_to_table([told]).to_pylist()
    assert record_from_row(plain) == FULL
    assert told.spanned
    assert not FULL.spanned
    assert repr(told) == repr(FULL), "what preparation knows a row by has changed"
