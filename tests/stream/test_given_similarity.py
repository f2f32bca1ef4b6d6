"""A matrix of similarities is read from three kinds of file, and a wrong one is named at once."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.errors import DataError, StorageError
from system.stream.given_similarity import GivenSimilarity

GOOD = {
    "food": {"food": 1.0, "animal": -0.25, "person": 0.5},
    "animal": {"food": -0.25, "animal": 1.0, "person": 0.0},
    "person": {"food": 0.5, "animal": 0.0, "person": 1.0},
}
CSV = "task,person,food,animal\nfood,0.5,1,-0.25\nanimal,0,-0.25,1\nperson,1,0.5,0\n"


def written(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def parquet(folder: Path) -> str:
    rows = [{"task": task, **row} for task, row in GOOD.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return str(folder / "a.parquet")


def test_the_same_matrix_from_every_kind_of_file(tmp_path: Path) -> None:
    """Columns may come in another order than the rows: names count, not places."""
    files = [
        written(tmp_path, "a.json", json.dumps(GOOD)),
        written(tmp_path, "a.csv", CSV),
        parquet(tmp_path),
    ]
    for file in files:
        given = GivenSimilarity.read(file)
        assert given.values == GOOD
        assert given.between("animal", "food") == -0.25
    assert GivenSimilarity.read(f"file://{files[1]}").values == GOOD


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"give a \.csv, \.json or \.parquet file"),
        ("a.json", "{", "no table of tasks by tasks"),
        ("a.json", "[1]", "no table of tasks by tasks"),
        ("a.json", '{"a": 1}', "no table of tasks by tasks"),
        ("a.json", "{}", "at least one task"),
        ("a.json", '{"a": {"a": 1, "b": 0}}', r"row of 'a' has columns \['a', 'b'\]"),
        ("a.json", '{"a": {"a": 1, "b": 0}, "b": {"b": 1}}', r"row of 'b' has columns \['b'\]"),
        ("a.json", '{"a": {"a": 1.5}}', r"'a' and 'a' have 1\.5; give a number in \[-1, 1\]"),
        ("a.json", '{"a": {"a": NaN}}', "have nan"),
        ("a.json", '{"a": {"a": true}}', "have True"),
        ("a.json", '{"a": {"a": null}}', "have None"),
        ("a.csv", "task,a,b\na,1,x\nb,0,1\n", "'a' and 'b' have 'x'"),
        ("a.csv", "task,a,b\na,1,0.2\nb,0.3,1\n", "is not symmetric: 'a' and 'b' have 0.2, 'b'"),
        ("a.csv", "task,a\na,1\na,1\n", "none twice"),
        ("a.csv", "task,a,a\na,1,1\n", "name a task twice"),
        ("a.parquet", "PAR", "no table of tasks by tasks"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Found in the middle of a stream, it would cost the tasks before."""
    with pytest.raises(DataError, match=message) as caught:
        GivenSimilarity.read(written(tmp_path, name, content))
    assert "benchmark.similarity=" in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.csv"):
        GivenSimilarity.read(str(tmp_path / "none.csv"))


def test_every_task_of_the_stream_must_be_in_it(tmp_path: Path) -> None:
    given = GivenSimilarity.read(written(tmp_path, "a.json", json.dumps(GOOD)))
    given.require(["food", "person"])
    with pytest.raises(DataError, match="has no task 'kitchen': it has food, animal, person"):
        given.require(["food", "kitchen"])
