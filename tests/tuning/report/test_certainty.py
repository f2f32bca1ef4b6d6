"""Intervals and paired differences between the trial configs of a sweep, from their ranks."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from system.storage.files import Folder
from system.storage.run_directory import RANKS
from tests.stream.test_found_ranks import rank_table
from tuning.report.certainty import NO_RANKS, Certainty, certainty_of

RECALLS = ("t2i_r1", "i2t_r1")


def trial(root: Path, name: str, table: pa.Table | None) -> Folder:
    folder = Folder.of(root / name)
    if table is None:
        folder.write_json("metrics.json", {})
    else:
        folder.write_table(RANKS, table)
    return folder


def test_differences_are_paired_and_to_the_base(tmp_path: Path) -> None:
    """Two intervals that overlap say nothing: of the same queries one method may well be better."""
    strong, weak = rank_table(better=6), rank_table(better=4)  # of the same zero-shot ranks
    folders = {
        "strong": {0: trial(tmp_path, "strong", strong)},
        "weak": {0: trial(tmp_path, "weak", weak)},
    }
    found = certainty_of(folders, RECALLS, "strong")
    base, other = found.configs["strong"]["t2i_r1"], found.configs["weak"]["t2i_r1"]
    assert base.difference is None
    assert (base.queries, found.configs["weak"]["i2t_r1"].queries) == (160, 80)
    assert base.ends[0] < other.ends[1], "their intervals overlap"
    assert other.difference == pytest.approx(other.average - base.average)
    assert other.difference_ends is not None
    assert other.difference_ends[1] < 0
    low, high = other.ends
    assert other.difference_ends[1] - other.difference_ends[0] < high - low
    again = certainty_of(folders, RECALLS, "strong")
    assert again == found
    assert Certainty.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_seeds_are_averaged_and_compared_over_those_that_both_have(tmp_path: Path) -> None:
    """A lucky seed that the base never ran would be taken for a better method."""
    table = {seed: rank_table(better=3 + seed) for seed in (0, 1)}
    folders = {
        "base": {0: trial(tmp_path, "base", table[0])},
        "same": {seed: trial(tmp_path, f"same-{seed}", table[seed]) for seed in (0, 1)},
    }
    found = certainty_of(folders, RECALLS, "base").configs
    assert found["same"]["t2i_r1"].difference == 0.0
    assert found["same"]["t2i_r1"].difference_ends == (0.0, 0.0)
    alone = [
        certainty_of({"x": {0: folders["same"][seed]}}, RECALLS, None).configs["x"]["t2i_r1"]
        for seed in (0, 1)
    ]
    mean = sum(one.average for one in alone) / 2
    assert found["same"]["t2i_r1"].average == pytest.approx(mean)


def test_runs_of_an_earlier_version_are_named_and_left_out(tmp_path: Path) -> None:
    folders = {
        "new": {0: trial(tmp_path, "new", rank_table())},
        "old": {0: trial(tmp_path, "old", None)},
    }
    found = certainty_of(folders, RECALLS, "old")
    assert found.missing == {"old": NO_RANKS}
    assert found.base is None  # nothing to compare with
    assert found.configs["new"]["t2i_r1"].difference is None
    assert certainty_of({}, RECALLS, None) == Certainty()


def test_other_test_queries_are_not_subtracted(tmp_path: Path) -> None:
    """Also where as many of them were asked: their order says nothing about who answers whom."""
    table = rank_table()
    column = table.column_names.index("split")
    other = table.set_column(column, "split", pa.array(["val"] * len(table)))
    folders = {
        "a": {0: trial(tmp_path, "a", table)},
        "b": {0: trial(tmp_path, "b", other)},
        "c": {0: trial(tmp_path, "c0", table), 1: trial(tmp_path, "c1", other)},
    }
    found = certainty_of(folders, RECALLS, "a")
    assert found.missing["b"] == "judged on other test queries than a: no difference"
    assert found.configs["b"]["t2i_r1"].difference is None
    assert found.configs["b"]["t2i_r1"].average > 0
    assert "c" not in found.configs
    assert "its seeds were judged on other test queries" in found.missing["c"]
