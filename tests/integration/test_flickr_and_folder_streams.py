"""From the files as they are distributed to a learned stream, by the product's own commands."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.coco_files import png
from tests.data.flickr_files import write_entities, write_flickr30k
from tests.integration.small_stream import prepare_and_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPLITS = {"train": 16, "val": 2, "test": 12}


def _flickr30k(root: Path) -> list[str]:
    images = write_flickr30k(root, SPLITS)
    tasks = {image["filename"]: ("dogs", "cats")[index % 2] for index, image in enumerate(images)}
    (root / "tasks.json").write_text(json.dumps(tasks))
    return [
        "benchmark=flickr30k",
        "benchmark.options.task_overrides=tasks.json",
        "benchmark.options.tasks=[cats,dogs]",
    ]


def _entities(root: Path) -> list[str]:
    write_entities(root, {"train": 8, "val": 1, "test": 6})
    return [
        "benchmark=diff_prompt_flickr30k",
        "benchmark.options.task_by=type",
        "benchmark.options.tasks=[animals,people]",
    ]


def _folder(suffix: str) -> Callable[[Path], list[str]]:
    def write(root: Path) -> list[str]:
        root.mkdir()
        rows: list[dict[str, str]] = []
        for task in ("cats", "dogs"):
            (root / task).mkdir()
            for number, split in enumerate(["train"] * 8 + ["val"] + ["test"] * 6):
                name = f"{task}/{number}.png"
                (root / name).write_bytes(png((20, 16), len(rows)))
                rows += [
                    {"file_name": name, "caption": f"no {len(rows)} - {k}", "split": split}
                    for k in range(2)
                ]
        table = pa.Table.from_pylist(rows)
        if suffix == "parquet":
            pq.write_table(table, root / "captions.parquet")
        elif suffix == "jsonl":
            lines = [json.dumps(row) for row in rows]
            (root / "captions.jsonl").write_text("\n".join(lines))
        else:
            lines = [",".join(row.values()) for row in rows]
            (root / "captions.csv").write_text("\n".join([",".join(table.column_names), *lines]))
        return ["benchmark=folder", f"benchmark.options.captions=captions.{suffix}"]

    return write


@pytest.mark.parametrize(
    ("write", "tasks"),
    [
        (_flickr30k, ["cats", "dogs"]),
        (_entities, ["animals", "people"]),
        (_folder("csv"), ["cats", "dogs"]),
        (_folder("jsonl"), ["cats", "dogs"]),
        (_folder("parquet"), ["cats", "dogs"]),
    ],
    ids=["flickr30k", "entities", "csv", "jsonl", "parquet"],
)
def test_prepare_and_run_two_tasks(
    tmp_path: Path, ray_local: None, write: Callable[[Path], list[str]], tasks: list[str]
) -> None:
    """If this fails, a user's files do not get through to a result."""
    raw = tmp_path / "raw"
    metrics = prepare_and_run(tmp_path, raw, *write(raw))
    assert metrics["tasks"] == tasks
    matrix = pq.read_table(tmp_path / "runs" / "two" / "accuracy_matrix.parquet")
    learned = {(row["trained_index"], row["evaluated_index"]) for row in matrix.to_pylist()}
    assert {(0, 0), (1, 0), (1, 1)} <= learned
