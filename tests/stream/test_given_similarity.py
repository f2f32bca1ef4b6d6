"""A matrix of similarities is read from five kinds of file, and a wrong one is named at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
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
TASKS = tuple(GOOD)
MATRIX = np.array([[GOOD[one][other] for other in TASKS] for one in TASKS])
CSV = "task,person,food,animal\nfood,0.5,1,-0.25\nanimal,0,-0.25,1\nperson,1,0.5,0\n"


def written(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def parquet(folder: Path) -> str:
    rows = [{"task": task, **row} for task, row in GOOD.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return str(folder / "a.parquet")


def test_the_same_matrix_from_every_kind_of_file(tmp_path: Path) -> None:
    files = [
        written(tmp_path, "a.json", json.dumps(GOOD)),
        written(tmp_path, "a.csv", CSV),
        parquet(tmp_path),
    ]
    for file in files:
        given = GivenSimilarity.read(file, ["another", "benchmark"])  # names count, not places
        assert given.values == GOOD
        assert given.notes == ()
        assert given.between("animal", "food") == -0.25
    assert GivenSimilarity.read(f"file://{files[1]}", TASKS).values == GOOD


def matrices(folder: Path) -> list[str]:
    """The matrix without names, as NumPy and people write it."""
    np.savetxt(folder / "a.txt", MATRIX, header="from a text model")
    np.savetxt(folder / "b.csv", MATRIX, delimiter=",", fmt="%.3f")
    np.save(folder / "c.npy", MATRIX.astype(np.float32))
    commas = "1, -0.25, 0.5\n-0.25, 1, 0\n\n0.5, 0, 1\n"
    names = ("a.txt", "b.csv", "c.npy")
    return [str(folder / name) for name in names] + [written(folder, "d.txt", commas)]


def test_a_matrix_without_names_is_in_the_order_of_the_prepared_tasks(tmp_path: Path) -> None:
    """The released matrix is a text file of numbers; which order was taken must be said."""
    for file in matrices(tmp_path):
        given = GivenSimilarity.read(file, TASKS)
        assert given.values == GOOD
        (note,) = given.notes
        assert file in note
        assert note.endswith("its rows are taken as food, animal, person")
    other = GivenSimilarity.read(file, ["person", "food", "animal"])
    assert other.between("person", "food") == -0.25


def test_a_similarity_that_was_rounded_above_one_is_one(tmp_path: Path) -> None:
    """Products of unit vectors in single precision exceed 1 in the last digit."""
    file = written(tmp_path, "a.txt", "1.0000001 0\n0 1")
    assert GivenSimilarity.read(file, ["a", "b"]).between("a", "a") == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", "", r"give a \.csv, \.json, \.parquet, \.txt or \.npy file"),
        ("a.txt", "", r"is 0 x 0, but the prepared benchmark has 2: a, b; give a row and a column"),
        ("a.txt", "1 0 0\n0 1 0\n0 0 1", r"is 3 x 3, but the prepared benchmark has 2: a, b; give"),
        ("a.csv", "1,0\n", "is 1 x 2, but the prepared benchmark has 2: a, b"),
        ("a.txt", "1 0\n0", "no table of tasks by tasks"),
        ("a.txt", "a b\n1 0\n0 1", "no table of tasks by tasks"),
        ("a.txt", "1 0.5\n0.4 1", "is not symmetric: 'a' and 'b' have 0.5"),
        ("a.txt", "1 nan\nnan 1", "'a' and 'b' have nan"),
        ("a.npy", "nothing", "no table of tasks by tasks"),
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
        GivenSimilarity.read(written(tmp_path, name, content), ["a", "b"])
    assert "benchmark.similarity=" in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.csv"):
        GivenSimilarity.read(str(tmp_path / "none.csv"), TASKS)


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.array(["a"])])
def test_an_array_that_is_no_matrix_of_numbers(tmp_path: Path, array: Any) -> None:
    """A pickled array would run what the file says."""
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match="no table of tasks by tasks"):
        GivenSimilarity.read(str(tmp_path / "a.npy"), ["a"])


def test_every_task_of_the_stream_must_be_in_it(tmp_path: Path) -> None:
    given = GivenSimilarity.read(written(tmp_path, "a.json", json.dumps(GOOD)), TASKS)
    given.require(["food", "person"])
    with pytest.raises(DataError, match="has no task 'kitchen': it has food, animal, person"):
        given.require(["food", "kitchen"])
