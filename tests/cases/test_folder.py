"""Tables of captions as people have them do not go in, or go in wrong, if these fail."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from system.data.shards.manifest import Manifest
from tests.cases.conftest import Prepared
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows

Case = Callable[[str], Path]
Prepare = Callable[..., Prepared]
ONE_TASK = "benchmark.options.task_by=dataset"
QUARANTINE = "benchmark.options.on_error=quarantine"


def option(name: str, value: object) -> str:
    return f"benchmark.options.{name}={value}"


def stored(manifest: Manifest, split: str | None = None) -> dict[str, dict[str, Any]]:
    """All images of all tasks by file name."""
    return {
        row["file_name"]: row
        for task in manifest.counts
        for of in manifest.counts[task]
        if split in (None, of)
        for row in stored_rows(manifest, task, of)
    }


def write_images(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png((20, 16), number))


def rewrite(root: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a table of the format that the name says; returns its option."""
    path = root / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as stream:
            if path.suffix == ".tsv":
                writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
            else:
                writer = csv.writer(stream)
            writer.writerow(rows[0])
            writer.writerows(row.values() for row in rows)
    return option("captions", name)


def test_what_a_spreadsheet_quotes_goes_in(case: Case, prepare: Prepare) -> None:
    manifest = prepare("folder", case("csv-bom-crlf") / "data").manifest()
    assert {task: sum(counts.values()) for task, counts in manifest.counts.items()} == {
        "cats": 6,
        "dogs": 6,
    }
    assert stored(manifest)["cats/000.png"]["captions"] == ["a yellow cats thing number 0 at 26 2"]


def test_semicolons_and_another_encoding_are_named_one_after_the_other(
    case: Case, prepare: Prepare
) -> None:
    """Each line that is refused says the option that the next try has."""
    root = case("csv-excel-semicolon") / "data"
    refusal = prepare("folder", root).refused()
    assert "file_name;caption;task;split" in refusal
    separator = 'benchmark.options.separator=";"'
    assert separator in refusal
    refusal = prepare("folder", root, separator).refused()
    assert "row 1 (line 2): is not UTF-8" in refusal
    assert "benchmark.options.encoding=cp1252" in refusal
    manifest = prepare("folder", root, separator, option("encoding", "cp1252")).manifest()
    assert "chosé" in stored(manifest)["cats/000.png"]["captions"][0]


@pytest.mark.parametrize("table", ["captions.csv", "as.tsv", "as.jsonl", "as.json", "as.parquet"])
def test_a_list_written_as_text_is_several_captions(
    case: Case, prepare: Prepare, table: str
) -> None:
    root = case("csv-list-as-text")
    if table != "captions.csv":
        rows = pa_csv.read_csv(root / "captions.csv").to_pylist()
        rewrite(root, table, [{**row, "raw": str(json.loads(row["raw"]))} for row in rows])
    manifest = prepare("folder", root, option("captions", table)).manifest()
    assert stored(manifest)["3.jpg"]["captions"] == ["A dog number 3.", "Dog 3, running."]
    assert stored(manifest)["3.jpg"]["image_id"] == "3"
    assert manifest.counts == {"all": {"train": 4, "val": 3, "test": 3}}


def test_a_table_without_header_says_that_it_needs_one(case: Case, prepare: Prepare) -> None:
    root = case("csv-no-header")
    captions = option("captions", "captions.tsv")
    refusal = prepare("folder", root, captions).refused()
    for part in (
        "has no header",
        "benchmark.options.header=false",
        "benchmark.options.columns.file_name=1",
        "benchmark.options.format=token",
        "[file_name,caption]",
    ):
        assert part in refusal
    manifest = prepare("folder", root, captions, option("format", "token")).manifest()
    assert stored(manifest)["4.jpg"]["captions"] == ["A dog number 4 ."] * 2
    shutil.move(root / "captions.tsv", root / "Flickr8k.token.txt")
    again = prepare("folder", root, option("captions", "Flickr8k.token.txt")).manifest()
    assert again.counts == manifest.counts


def test_a_table_without_header_goes_in_by_number(case: Case, prepare: Prepare) -> None:
    root = case("csv-no-header")
    text = (root / "captions.tsv").read_text()
    (root / "plain.csv").write_text(
        "".join(
            f'{number},{line.split("#")[0]},"{line.split(chr(9))[1]}"\n'
            for number, line in enumerate(text.splitlines())
        )
    )
    plain = (option("captions", "plain.csv"), option("header", "false"))
    refusal = prepare("folder", root, *plain).refused()
    assert "it has 1, 2, 3: set benchmark.options.columns.file_name" in refusal
    columns = (option("columns.file_name", 2), option("columns.caption", 3))
    manifest = prepare("folder", root, *plain, *columns).manifest()
    assert stored(manifest)["0.jpg"]["captions"] == ["A dog number 0 ."] * 2


@pytest.mark.parametrize("table", ["captions.csv", "as.tsv", "as.jsonl", "as.parquet"])
def test_splits_are_known_by_their_other_names(case: Case, prepare: Prepare, table: str) -> None:
    root = case("csv-split-names")
    if table != "captions.csv":
        rows = pa_csv.read_csv(root / "captions.csv").to_pylist()
        names = {"train": "Training", "validation": "VALID", "test": "testing"}
        rewrite(root, table, [{**row, "split": names[row["split"]]} for row in rows])
    manifest = prepare("folder", root, option("captions", table)).manifest()
    assert manifest.counts == {"all": {"train": 4, "val": 3, "test": 3}}
    path = root / table
    if path.suffix != ".parquet":
        path.write_text(path.read_text().replace("test", "exam").replace("VALID", "valid"))
        refusal = prepare("folder", root, option("captions", table)).refused()
        assert "'exam" in refusal
        assert "not one of train, training, restval, val" in refusal


@pytest.mark.parametrize(
    "row",
    ["4.jpg, a dog, and a cat number 4", '4.jpg,"a dog', '4.jpg,"a" dog', "4.jpg", "4.jpg,a\0b"],
)
def test_a_row_that_breaks_its_quoting_is_put_aside_by_number(
    case: Case, prepare: Prepare, row: str
) -> None:
    root = case("csv-unquoted-comma")
    path = root / "captions.csv"
    path.write_text(path.read_text().replace("4.jpg, a dog, and a cat number 4", row))
    assert "captions.csv, row 5 (line 6): " in prepare("folder", root).refused()
    prepared = prepare("folder", root, QUARANTINE)
    assert sorted(stored(prepared.manifest())) == [f"{i}.jpg" for i in range(10) if i != 4]
    quarantined = pq.read_table(prepared.folder / "quarantine.parquet").to_pylist()
    assert [fault["name"] for fault in quarantined] == [f"{path}, row 5"]


def test_backslashes_of_windows_are_slashes(case: Case, prepare: Prepare) -> None:
    root = case("csv-windows-paths") / "data"
    manifest = prepare("folder", root).manifest()
    assert list(manifest.counts) == ["cats", "dogs"]
    assert "cats/000.png" in stored(manifest)
    path = root / "captions.csv"
    path.write_text(path.read_text().replace("cats\\000.png", "C:\\me\\000.png"))
    refusal = prepare("folder", root).refused()
    assert "row 1: " in refusal
    assert "with backslashes" in refusal
    assert "task_by" not in refusal


def test_directories_called_as_splits_are_no_tasks(case: Case, prepare: Prepare) -> None:
    root = case("folder-split-directories")
    assert prepare("folder", root).manifest().counts == {"all": {"train": 6, "test": 6}}
    as_tasks = prepare("folder", root, option("split_by", "draw")).manifest()
    assert list(as_tasks.counts) == ["train", "test"]
    assert prepare("folder", root, option("split_by", "draw"), ONE_TASK).manifest().counts


def test_the_directory_below_a_splits_is_the_task(tmp_path: Path, prepare: Prepare) -> None:
    names = [
        f"{split}/{task}/{i}.png"
        for split in ("Train", "valid", "testing")
        for task in ("cats", "dogs")
        for i in range(2)
    ]
    write_images(tmp_path / "own", names)
    table = rewrite(
        tmp_path / "own", "a.jsonl", [{"image": name, "text": f"in {name}"} for name in names]
    )
    each = {"train": 2, "val": 2, "test": 2}
    manifest = prepare("folder", tmp_path / "own", table).manifest()
    assert manifest.counts == {"cats": each, "dogs": each}
    assert set(stored(manifest, "val")) == {name for name in names if name.startswith("valid")}


def test_links_of_the_hubs_cache_are_followed_on_request(case: Case, prepare: Prepare) -> None:
    root = case("hub-snapshot-links") / "hub/snapshots/abc"
    for path in [*root.rglob("*.png"), root / "captions.csv"]:
        if not path.is_symlink():  # as links are kept where there are none
            target = path.read_text()
            path.unlink()
            path.symlink_to(target)
    refusal = prepare("folder", root).refused()
    assert "link that leaves the image folder" in refusal
    assert "benchmark.options.follow_links=true" in refusal
    manifest = prepare("folder", root, option("follow_links", "true")).manifest()
    assert list(manifest.counts) == ["cats", "dogs"]
    name, row = next(iter(stored(manifest).items()))
    assert row["image"] == (root / name).read_bytes()


@pytest.mark.parametrize("table", ["captions.jsonl", "as.csv", "as.tsv", "as.json", "as.parquet"])
def test_ids_may_be_texts(case: Case, prepare: Prepare, table: str) -> None:
    root = case("jsonl-text-image-id")
    if table != "captions.jsonl":
        lines = (root / "captions.jsonl").read_text().splitlines()
        rewrite(root, table, [json.loads(line) for line in lines])
    manifest = prepare("folder", root, option("captions", table)).manifest()
    assert stored(manifest)["7.jpg"]["image_id"] == "coco_7"


def test_names_are_found_in_either_unicode_form(case: Case, prepare: Prepare) -> None:
    manifest = prepare("folder", case("nfd-names") / "data").manifest()
    assert len(manifest.counts) == 2
    assert sum(sum(counts.values()) for counts in manifest.counts.values()) == 12


@pytest.mark.parametrize("table", ["captions.parquet", "as.csv", "as.jsonl"])
def test_ids_may_be_whole_floats(case: Case, prepare: Prepare, table: str) -> None:
    root = case("parquet-float-ids") / "data"
    rows = pq.read_table(root / "captions.parquet").to_pylist()
    if table != "captions.parquet":
        rewrite(root, table, rows)
    manifest = prepare("folder", root, option("captions", table)).manifest()
    assert stored(manifest)["cats/001.png"]["image_id"] == "1"
    rewrite(root, table, [{**row, "image_id": row["image_id"] + 0.5} for row in rows])
    if table != "as.csv":  # where 0.5 is a text
        refusal = prepare("folder", root, option("captions", table)).refused()
        assert "0.5, neither a whole number from 0 on nor a text" in refusal
        assert "columns.image_id=null" in refusal


def test_images_in_a_parquet_table_are_those_beside_it(
    case: Case, prepare: Prepare, tmp_path: Path
) -> None:
    """The same shards, to the bit, as from files; a table on the Hub has one split, or several."""
    root = case("parquet-hf-images")
    table = option("captions", "train-00000-of-00001.parquet")
    embedded = prepare("folder", root, table)
    rows = pq.read_table(root / "train-00000-of-00001.parquet").to_pylist()
    for row in rows:
        (root / row["image"]["path"]).write_bytes(row["image"]["bytes"])
    files = [{"file_name": row["image"]["path"], "caption": row["text"]} for row in rows]
    manifest = embedded.manifest()
    first = shards(manifest), stored(manifest)
    beside = prepare("folder", root, rewrite(root, "a.csv", files)).manifest()
    assert (shards(beside), stored(beside)) == first
    assert set(beside.counts["all"]) == {"train", "val", "test"}


def shards(manifest: Manifest) -> list[str]:
    return [shard.sha256 for task in manifest.tasks for of in task.splits.values() for shard in of]


def test_tables_of_the_hub_are_splits_by_their_names(tmp_path: Path, prepare: Prepare) -> None:
    """Rows that repeat an image are its captions; one without a name is called by its row."""
    root = tmp_path / "own"
    (root / "data").mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    number = 0
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        images: list[dict[str, Any]] = []
        for _ in range(3):
            data = png((20, 16), number)
            images += [{"bytes": data, "path": None}] * 2
            number += 1
        captions = [[f"{name} {row}", "more"] for row in range(6)]
        columns = {"image": pa.array(images, kind), "captions": captions}
        pq.write_table(pa.table(columns), root / f"data/{name}.parquet", row_group_size=4)
    for place in ("data", "data/*.parquet"):
        manifest = prepare("folder", root, option("captions", place)).manifest()
        assert manifest.counts == {"all": {"train": 6, "val": 3}}
        row = stored(manifest)["validation-00000-of-00001:3"]
        assert row["captions"] == [
            "validation-00000-of-00001 2",
            "more",
            "validation-00000-of-00001 3",
            "more",
        ]


def test_thirty_pictures_and_a_csv_are_all_that_is_needed(tmp_path: Path, prepare: Prepare) -> None:
    root = tmp_path / "own"
    names = [f"picture {i:02d}.png" for i in range(30)]
    write_images(root, names)
    rewrite(root, "captions.csv", [{"file_name": n, "caption": f"this is {n}"} for n in names])
    manifest = prepare("folder", root).manifest()
    assert list(manifest.counts) == ["all"]
    assert all(manifest.counts["all"][split] for split in ("train", "val", "test"))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_each_split_gets_an_image_of_each_task(
    tmp_path: Path, prepare: Prepare, count: int
) -> None:
    root = tmp_path / "own"
    names = [f"{task}/{i}.png" for task in ("cats", "dogs", "cows", "hens") for i in range(count)]
    write_images(root, names)
    rewrite(root, "captions.csv", [{"file_name": n, "caption": n} for n in names])
    manifest = prepare("folder", root).manifest()
    assert all(
        manifest.counts[task][split] for task in manifest.counts for split in ("val", "test")
    )
    (root / "hens/0.png").unlink()
    prepared = prepare("folder", root, QUARANTINE)
    if count == 3:
        assert "task 'hens' has 2 images, but a draw of train, val, test" in prepared.refused()
    else:
        assert sum(prepared.manifest().counts["hens"].values()) == count - 1
        assert len(pq.read_table(prepared.folder / "quarantine.parquet")) == 1


def test_known_broken_row_of_flickr30ks_results(tmp_path: Path, prepare: Prepare) -> None:
    root = tmp_path / "own"
    names = [f"{i}.jpg" for i in range(12)]
    write_images(root, names)
    lines = [f"{name}| {k}| A dog , number {k} of {name} ." for name in names for k in range(5)]
    lines[7] = lines[7].replace("|  2| ", "| 2   ").replace("| 2| ", "| 2   ")
    table = root / "results.csv"
    table.write_text("\n".join(["image_name| comment_number| comment", *lines]) + "\n")
    captions = option("captions", "results.csv")
    separator = 'benchmark.options.separator="|"'
    assert separator in prepare("folder", root, captions).refused()
    assert (
        "row 8 (line 9): has 2 values, fewer"
        in prepare("folder", root, captions, separator).refused()
    )
    prepared = prepare("folder", root, captions, separator, QUARANTINE)
    assert len(stored(prepared.manifest())["1.jpg"]["captions"]) == 4
    assert stored(prepared.manifest())["0.jpg"]["captions"][1] == "A dog , number 1 of 0.jpg ."
