"""The schema of accuracy_matrix.parquet, and its rows as plain records."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from system.errors import DataError

MATRIX_SCHEMA = pa.schema(
    [
        ("trained_index", pa.int32()),
        ("trained_task", pa.string()),  # null before any task
        ("evaluated_index", pa.int32()),
        ("evaluated_task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),  # percent; NaN if undefined
        ("reason", pa.string()),  # why it is undefined, else null
        ("queries", pa.int32()),
    ]
)


def matrix_table(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The table of a matrix's records, a row an entry."""
    return pa.Table.from_pylist(list(records), schema=MATRIX_SCHEMA)


def matrix_records(table: pa.Table) -> list[dict[str, Any]]:
    """The records of a table that `matrix_table` made.

    Raises DataError for a table with other columns.
    """
    if not table.schema.equals(MATRIX_SCHEMA):
        raise DataError(
            f"accuracy matrix has columns {table.schema.names}, expected {MATRIX_SCHEMA.names} "
            "with their types: it was written by another version; run `promptide evaluate` again"
        )
    records: list[dict[str, Any]] = table.to_pylist()
    return records
