"""From ranks.parquet to intervals: of the same averages as the run's, side by side."""

import numpy as np
import pyarrow as pa
import pytest

from system.objectives.retrieval.retrieval_rank_table import SCHEMA
from system.results.intervals import average
from system.stream.found_ranks import METRICS, queries_of, run_intervals

IMAGES, CAPTIONS, TASKS = 40, 2, ("animal", "food")
RECALLS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10")


def rank_table(seed: int = 0, better: int = 5) -> pa.Table:
    """Ranks that are a little better once all is learned, in both directions."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, task in enumerate(TASKS):
        for direction, count in (("t2i", IMAGES * CAPTIONS), ("i2t", IMAGES)):
            for query in range(count):
                row = query // CAPTIONS if direction == "t2i" else query
                before = int(rng.integers(1, 25))
                for phase, rank in (("zero_shot", before), ("after", max(1, before - better))):
                    rows.append(
                        {
                            "phase": phase,
                            "direction": direction,
                            "task_index": index,
                            "task": task,
                            "split": "test",
                            "query": query,
                            "row": row,
                            "image_id": f"image-{row}",
                            "text": "a text" if direction == "t2i" else None,
                            "rank": rank,
                            "average_precision_10": 1 / rank if rank <= 10 else 0.0,
                            "right": 1 if direction == "t2i" else CAPTIONS,
                            "gallery": 80,
                        }
                    )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def averages(table: pa.Table) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for section, phase in (("average", "after"), ("zero_shot", "zero_shot")):
        queries = queries_of(table, phase)
        values = queries.values([METRICS[name] for name in RECALLS])
        found[section] = dict(zip(RECALLS, average(values, queries.tasks).tolist(), strict=True))
    return found


def test_intervals_hold_their_averages_and_gains_are_paired() -> None:
    table = rank_table()
    of = averages(table)
    found = run_intervals(table, of)
    assert (found["level"], found["resamples"], found["seed"]) == (95, 2000, 0)
    for section in ("average", "zero_shot"):
        for name, value in of[section].items():
            low, high = found[section][name]
            assert value is not None
            assert low < value < high
    sides = [high - low for low, high in (found["average"]["t2i_r5"], found["zero_shot"]["t2i_r5"])]
    low, high = found["gain"]["t2i_r5"]
    assert low > 0
    assert high - low < min(sides)
    assert found == run_intervals(table, of)


def test_rsum_has_an_interval_of_its_own() -> None:
    """Wider than of one recall, narrower than of six that have nothing to do with each other."""
    table = rank_table()
    of = averages(table)
    found = run_intervals(table, of)["average"]
    low, high = found["rsum"]
    assert low < sum(value or 0.0 for value in of["average"].values()) < high
    assert found["r_mean"] == [pytest.approx(low / 6), pytest.approx(high / 6)]
    assert high - low < sum(found[name][1] - found[name][0] for name in RECALLS)


def test_what_has_no_value_has_no_interval() -> None:
    table = rank_table()
    of = averages(table)
    of["average"]["i2t_r10"] = None
    found = run_intervals(table, of)
    assert found["average"]["i2t_r10"] is found["gain"]["i2t_r10"] is None
    assert found["average"]["rsum"] is None
    assert found["zero_shot"]["i2t_r10"] is not None


def test_the_order_of_rows_does_not_matter() -> None:
    table = rank_table()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    assert run_intervals(shuffled, averages(table)) == run_intervals(table, averages(table))
