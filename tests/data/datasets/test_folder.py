"""A user's own images end in the wrong task or split, or an error is no help, if these fail."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows

Rows = Sequence[Mapping[str, Any]]

ROWS = [
    {"file_name": f"{task}/{i}.png", "caption": f"{task} {i}{k}", "split": split}
    for k in "ab"
    for task in ("cats", "dogs")
    for i, split in enumerate(("train", "train", "val", "test"))
]


def write(root: Path, rows: Rows, suffix: str = ".jsonl") -> None:
    """Write captions in one of the formats, and an image for every name in them."""
    for number, name in enumerate(dict.fromkeys(str(row["file_name"]) for row in rows)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png((20, 16), number))
    path = root / f"captions{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".csv":
        csv.write_csv(pa.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def prepare(root: Path, /, suffix: str = ".jsonl", **options: Any) -> Manifest:
    return DATASETS.get("folder")(
        "mine",
        str(root / "out"),
        {"root": str(root), "captions": f"captions{suffix}", **options},
        None,
        replace=True,
    )


def split_of_each(manifest: Manifest) -> dict[str, str]:
    return {
        row["file_name"]: split
        for task in manifest.counts
        for split in manifest.counts[task]
        for row in stored_rows(manifest, task, split)
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_one_image_come_together(tmp_path: Path, suffix: str) -> None:
    """The same benchmark from each format; here an image's rows are far apart."""
    write(tmp_path, ROWS, suffix)
    manifest = prepare(tmp_path, suffix)
    counts = {"train": 2, "val": 1, "test": 1}
    assert manifest.counts == {"cats": counts, "dogs": counts}
    first, second = stored_rows(manifest, "dogs", "train")
    assert (first["image_id"], first["file_name"]) == ("4", "dogs/0.png")
    assert first["captions"] == ["dogs 0a", "dogs 0b"]
    assert (first["width"], first["height"]) == (20, 16)
    assert first["image"] == (tmp_path / "dogs/0.png").read_bytes()
    assert second["captions"] == ["dogs 1a", "dogs 1b"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_captions_may_be_a_list_and_columns_have_other_names(tmp_path: Path, suffix: str) -> None:
    write(
        tmp_path,
        [
            {"file_name": f"{i}.png", "texts": ["One!", f"{i}"], "kind": "ab"[i % 2], "id": 50 - i}
            for i in range(60)
        ],
        suffix,
    )
    columns = {"caption": "texts", "task": "kind", "image_id": "id"}
    with pytest.raises(DataError, match=r"field 'id' is -1, neither a whole number"):
        prepare(tmp_path, suffix, columns=columns)
    manifest = prepare(
        tmp_path, suffix, columns={**columns, "image_id": None}, tasks=["b"], caption_rule="lpi"
    )
    assert list(manifest.counts) == ["b"]
    row = stored_rows(manifest, "b", "train")[0]
    assert row["captions"] == ["one", row["file_name"].removesuffix(".png")]
    skipped = manifest.source["skipped"]
    assert isinstance(skipped, dict)
    assert sum(reasons["other_task"] for reasons in skipped.values()) == 30


def test_drawn_splits_stay_when_images_are_added(tmp_path: Path) -> None:
    """Else yesterday's test images would be today's training images."""
    rows = [{"file_name": f"cats/{i}.png", "caption": f"no {i}"} for i in range(80)]
    write(tmp_path / "a", rows[:40])
    write(tmp_path / "b", list(reversed(rows)))
    fewer, more = (split_of_each(prepare(tmp_path / name)) for name in "ab")
    assert fewer.items() <= more.items()
    assert set(fewer.values()) == {"train", "val", "test"}
    other = split_of_each(prepare(tmp_path / "a", shares={"seed": 1}))
    assert other != fewer
    without = prepare(tmp_path / "a", shares={"val": 0})
    assert list(without.counts["cats"]) == ["train", "test"]


def test_a_task_too_small_for_its_shares_is_named(tmp_path: Path) -> None:
    write(tmp_path, [{"file_name": "cats/a.png", "caption": "x"}])
    with pytest.raises(DataError, match=r"task 'cats' has 1 image, but a draw of train,"):
        prepare(tmp_path)


def test_all_images_can_be_one_task(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    manifest = prepare(tmp_path, task_by="dataset", task_name="pets")
    assert manifest.counts == {"pets": {"train": 4, "val": 2, "test": 2}}


def change(position: int, **changed: Any) -> Rows:
    return [{**row, **changed} if i == position else row for i, row in enumerate(ROWS)]


TASKS = [{**row, "task": "ab"[i % 2]} for i, row in enumerate(ROWS)]
BROKEN: list[tuple[Rows, str]] = [
    (change(0, caption=" "), r"line 1: column 'caption': the text ' ' is empty after cleaning"),
    (change(0, caption=None), r"line 1: column 'caption' is None, neither text nor a list"),
    (change(0, caption=["a", 3]), r"line 1: column 'caption' is \['a', 3\], neither text nor"),
    (change(0, caption=[]), r"line 1: column 'caption' is \[\], neither"),
    (change(0, split="testA"), r"line 1: column 'split' is 'testA', not one of train, training,"),
    (change(0, split=True), r"line 1: column 'split' is True, not a text"),
    (
        change(0, split="val"),
        r"line 9: column 'split' of image 'cats/0\.png' is 'train', but",
    ),
    (
        change(0, split="test", file_name="./cats//0.png"),
        r"line 9: column 'split' of image 'cats/0",
    ),
    ([{**row, "split": ""} if i % 8 == 0 else row for i, row in enumerate(ROWS)], "is empty"),
    (change(0, file_name="a.png"), r"line 1: file name 'a\.png' has no directory that could be"),
    ([*TASKS[:8], {**TASKS[8], "task": "b"}, *TASKS[9:]], r"column 'task' of image .* contradict"),
    (change(0, image_id=-7), r"line 1: field 'image_id' is -7, neither a whole number from 0 on"),
    (change(0, image_id=[7]), r"line 1: field 'image_id' is \[7\], neither a whole number from 0"),
    (change(0, caption="\ud800"), r"image 'cats/0\.png': the text .* is no Unicode"),
]


@pytest.mark.parametrize(("rows", "message"), BROKEN)
def test_broken_row_is_named(tmp_path: Path, rows: Rows, message: str) -> None:
    write(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path)


def test_a_broken_row_breaks_its_image_and_no_other(tmp_path: Path) -> None:
    """Half of an image's captions, or one of two splits that it claims, is not what was meant."""
    write(tmp_path, change(0, split="testA"))
    (tmp_path / "dogs/0.png").write_bytes(b"no image")
    (tmp_path / "dogs/2.png").unlink()
    with (tmp_path / "captions.jsonl").open("a") as stream:
        stream.write('{"caption": "nameless"}\n{"file_name": ["cats/1.png"]}\nno JSON\n')
    with pytest.raises(DataError):
        prepare(tmp_path)
    with pytest.raises(DataError, match=r"split 'val' has no image of task 'dogs'"):
        prepare(tmp_path, on_error="quarantine")
    (tmp_path / "dogs/2.png").write_bytes(png((20, 16), 78))
    manifest = prepare(tmp_path, on_error="quarantine")
    assert manifest.counts == {
        "cats": {"train": 1, "val": 1, "test": 1},
        "dogs": {"train": 1, "val": 1, "test": 1},
    }
    quarantined = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    lines = str(tmp_path / "captions.jsonl")
    assert sorted((row["split"], row["name"].removeprefix(lines)) for row in quarantined) == [
        ("train", "dogs/0.png"),
        ("unknown", ", line 17"),
        ("unknown", ", line 18"),
        ("unknown", ", line 19"),
        ("unknown", "cats/0.png"),
    ]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "cats/../../x", "cats/n.png"])
def test_image_outside_the_folder_or_missing_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, ROWS)
    line = json.dumps({"file_name": name, "caption": "x", "split": "train"})
    with (tmp_path / "captions.jsonl").open("a") as stream:
        stream.write(line + "\n")
    message = "does not exist" if name == "cats/n.png" else "leaves the image folder"
    with pytest.raises(DataError, match=rf"captions\.jsonl, line 17: .*{message}"):
        prepare(tmp_path)


def test_two_images_of_one_id_are_refused_even_under_quarantine(tmp_path: Path) -> None:
    write(tmp_path, [{**row, "image_id": 0} for i, row in enumerate(ROWS)])
    with pytest.raises(DataError, match=r"line \d+: image id 0 is that of another image of split"):
        prepare(tmp_path, on_error="quarantine")


def test_wrong_options_name_their_field_and_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"columns": {"caption": "text"}},
            DataError,
            r"has no column 'text'; it has file_name, caption, split: set benchmark\.options\."
            r"columns\.caption",
        ),
        ({"columns": {"task": "kind"}}, DataError, r"has no column 'kind'; .*columns\.task"),
        ({"columns": {"name": "x"}}, ConfigError, r"unknown key benchmark\.options\.columns\.name"),
        ({"shares": {"val": 0.5, "test": 0.5}}, ConfigError, r"shares: val=0\.5 and test=0\.5"),
        ({"task_by": "name"}, ConfigError, r"options\.task_by='name' is not one of: directory"),
        ({"images": "no"}, DataError, r"options\.images: the folder .* does not exist"),
        ({"captions": "no.csv"}, DataError, r"options\.captions: the file .* does not exist"),
        ({"tasks": ["cows"]}, DataError, "holds no row that can be used"),
        ({"tasks": ["cats", "cows"]}, DataError, "has no image of task 'cows'"),
        ({"caption_rule": "lip"}, ConfigError, r"options\.caption_rule: 'lip' is unknown"),
    ]
    for changed, kind, message in wrong:
        with pytest.raises(kind, match=message):
            prepare(tmp_path, **changed)


def test_a_split_column_can_be_ignored(tmp_path: Path) -> None:
    rows = [{"file_name": f"cats/{i}.png", "caption": "x", "split": "all"} for i in range(40)]
    write(tmp_path, rows)
    manifest = prepare(tmp_path, columns={"split": None})
    assert sum(manifest.counts["cats"].values()) == 40
