"""Run directories that cannot be read: one clear error that names the file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.errors import DataError, StorageError
from system.report.run_data import read_run
from tests.report.generated_run import TASKS, write_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    """Else the report leaves out what is there."""
    run = read_run(write_run(tmp_path / "demo"))
    assert run.finished
    assert run.missing == ()
    assert run.tasks == TASKS
    assert run.matrix is not None
    assert run.matrix.trained == tuple(range(-1, 12))


def test_tasks_are_known_from_the_matrix_alone(tmp_path: Path) -> None:
    """Else a running stream's page has no task names."""
    directory = write_run(tmp_path / "demo")
    (directory / "metrics.json").unlink()
    run = read_run(directory)
    assert not run.finished
    assert run.tasks == TASKS


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """Else a mistyped run name ends in a traceback."""
    with pytest.raises(StorageError, match=r"nowhere does not exist.*<run name>"):
        read_run(tmp_path / "nowhere")


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    """Else naming report.html in place of its directory ends in a traceback."""
    (tmp_path / "page").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        read_run(tmp_path / "page")


def test_the_directory_above_the_runs_is_refused(tmp_path: Path) -> None:
    """Else an empty page would be written among the runs."""
    write_run(tmp_path / "demo")
    with pytest.raises(StorageError, match=r"no run directory.*metrics\.json"):
        read_run(tmp_path)


def test_unknown_uri_is_refused() -> None:
    """Else a mistyped scheme ends in a traceback."""
    with pytest.raises(StorageError, match="nosuch"):
        read_run("nosuch://bucket/run")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_broken_metrics_are_named(tmp_path: Path, content: str) -> None:
    """Else a half-written metrics.json ends in a traceback."""
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json.*run the same"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["accuracy_matrix", "access_log", "training_log", "examples"])
def test_broken_or_foreign_parquet_is_named(tmp_path: Path, name: str) -> None:
    """Else a damaged table ends in a traceback."""
    path = tmp_path / f"{name}.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises((DataError, StorageError), match=name):
        read_run(tmp_path)
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(DataError, match=rf"{name}\.parquet: column .* is missing"):
        read_run(tmp_path)


def test_matrix_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    """Else of two values of one cell the page has whichever comes last."""
    directory = write_run(tmp_path / "demo")
    path = directory / "accuracy_matrix.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(DataError, match=r"accuracy_matrix\.parquet: .*twice"):
        read_run(directory)


@pytest.mark.parametrize(
    ("file", "column", "values", "message"),
    [
        ("examples.parquet", "rank", pa.array(["1"]), "holds string, not whole numbers"),
        ("examples.parquet", "image", pa.array([1.5]), "holds double, not encoded pictures"),
        ("examples.parquet", "score", pa.array([None], pa.float64()), "lacks values"),
        ("examples.parquet", "query", pa.array([b"a"]), "holds binary, not texts"),
        ("access_log.parquet", "opened_at", pa.array([3]), "holds int64, not times"),
        ("training_log.parquet", "step", pa.array([None], pa.int32()), "lacks values"),
    ],
)
def test_a_column_of_something_else_is_named(
    tmp_path: Path, file: str, column: str, values: pa.Array, message: str
) -> None:
    """Else the page that is made of it ends in a traceback."""
    directory = write_run(tmp_path / "demo")
    table = pq.read_table(directory / file).slice(0, 1)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, values), directory / file)
    with pytest.raises(DataError, match=rf"{file}: column {column} {message}"):
        read_run(directory)
