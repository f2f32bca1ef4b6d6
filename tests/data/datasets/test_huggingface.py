"""Tables of `datasets` give other shards than the same images in a folder, if these fail."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError, PromptideError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows
from tests.data.hub_files import Picture, pictures, shard_bytes, write_folder

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "task": datasets.ClassLabel(names=["dog", "cat"]),
    }
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps what it reads; not beyond a test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def prepare(root: Path | str, dataset: str = "huggingface", /, **options: Any) -> Manifest:
    place = options.pop("output", None) or Path(root).parent
    output = place / f"shards-{len(list(place.iterdir()))}"  # another each time
    return DATASETS.get(dataset)("mine", str(output), {"root": str(root), **options}, None)


def table(data: list[Picture]) -> datasets.Dataset:
    rows = [
        {
            "image": {"bytes": p.image, "path": p.name},
            "captions": list(p.captions),
            "task": FEATURES["task"].str2int(p.task),
        }
        for p in data
    ]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def in_splits(data: list[Picture]) -> datasets.DatasetDict:
    names = {"train": "train", "val": "validation", "test": "test"}
    return datasets.DatasetDict(
        {name: table([p for p in data if p.split == split]) for split, name in names.items()}
    )


def classes(root: Path, per_split: int = 3) -> Path:
    """A data set of images and numbers of classes, as most for classification on the Hub."""
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["guinea_pig", "dog"])}
    )
    splits = {
        split: datasets.Dataset.from_list(
            [
                {"img": {"bytes": png((9, 9), 10 * place + n), "path": None}, "label": n % 2}
                for n in range(per_split)
            ],
            features=features,
        )
        for place, split in enumerate(("train", "test"))
    }
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return root


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_the_shards_are_those_of_the_folder_reader_to_the_bit(tmp_path: Path, form: str) -> None:
    """Numbers from the Hub and from a folder could not be compared else."""
    data = pictures()
    write_folder(tmp_path / "folder", data)
    root = tmp_path / "mine"
    if form == "saved":
        in_splits(data).save_to_disk(str(root))
    else:
        for name, split in in_splits(data).items():
            (root / "data").mkdir(parents=True, exist_ok=True)
            split.to_parquet(str(root / "data" / f"{name}-00000-of-00001.parquet"))
    folder, hub = prepare(tmp_path / "folder", "folder"), prepare(root)
    assert hub.counts == folder.counts
    assert hub.fingerprint == folder.fingerprint
    assert shard_bytes(hub) == shard_bytes(folder)


def test_drawn_splits_are_those_of_the_folder_reader_too(tmp_path: Path) -> None:
    data = pictures()
    write_folder(tmp_path / "folder", data, splits=False)
    table(data).save_to_disk(str(tmp_path / "mine"))
    folder, hub = prepare(tmp_path / "folder", "folder"), prepare(tmp_path / "mine")
    assert {*hub.counts["cat"]} == {"train", "val", "test"}
    assert shard_bytes(hub) == shard_bytes(folder)


def test_rows_of_a_selection_keep_their_images(tmp_path: Path) -> None:
    """`select` and `shuffle` keep a list of row numbers beside the table."""
    data = pictures(4)
    whole = in_splits(data)
    chosen = datasets.DatasetDict({k: v.select([3, 1, 6]) for k, v in whole.items()})
    chosen.save_to_disk(str(tmp_path / "mine"))
    rows = stored_rows(prepare(tmp_path / "mine"), "cat", "train")
    images = {p.name: p.image for p in data}
    assert [row["file_name"] for row in rows] == ["cat-train03.png", "cat-train01.png"]
    assert all(row["image"] == images[row["file_name"]] for row in rows)


def test_rows_of_one_image_come_together(tmp_path: Path) -> None:
    """Where each caption has a row of its own, the image stands in each of them."""
    data = [replace(p, captions=(f"{k} {p.name}",)) for k in ("one", "two") for p in pictures(3)]
    in_splits(data).save_to_disk(str(tmp_path / "mine"))
    manifest = prepare(tmp_path / "mine")
    assert manifest.counts["dog"] == {"train": 3, "val": 3, "test": 3}
    row = stored_rows(manifest, "dog", "train")[0]
    assert row["captions"] == ["one dog-train00.png", "two dog-train00.png"]


def test_classes_are_captions_by_templates(tmp_path: Path) -> None:
    root = classes(tmp_path / "mine")
    with pytest.raises(DataError, match=r"no column of a name known for caption.*label"):
        prepare(root)
    manifest = prepare(root, columns={"caption": "label"}, templates=["a {}.", "the {}!"])
    assert manifest.counts == {"all": {"train": 3, "test": 3}}
    row = stored_rows(manifest, "all", "train")[0]
    assert row["captions"] == ["a guinea pig.", "the guinea pig!"]
    manifest = prepare(root, columns={"caption": "label", "task": "label"})
    assert list(manifest.counts) == ["guinea_pig", "dog"]


def test_splits_are_named_where_their_names_say_nothing(tmp_path: Path) -> None:
    data = pictures(3)
    whole = in_splits(data)
    renamed = {"part_a": whole["train"], "part_b": whole["test"], "rest": whole["validation"]}
    datasets.DatasetDict(renamed).save_to_disk(str(tmp_path / "mine"))
    with pytest.raises(DataError, match=r"options\.splits: .* has part_a, part_b, rest, of which"):
        prepare(tmp_path / "mine")
    with pytest.raises(DataError, match="not part_c"):
        prepare(tmp_path / "mine", splits={"train": "part_c"})
    manifest = prepare(tmp_path / "mine", splits={"train": "part_a", "test": "part_b"})
    assert manifest.counts["dog"] == {"train": 3, "test": 3}


def test_a_column_of_splits_comes_before_the_splits(tmp_path: Path) -> None:
    """As Flickr30k on the Hub: all rows are its test split, and a column says what they are."""
    data = pictures(3)
    rows = table(data).add_column("split", [p.split for p in data])
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "mine"))
    assert prepare(tmp_path / "mine").counts["cat"] == {"train": 3, "val": 3, "test": 3}


def test_images_that_are_files_are_read_where_they_lie(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    data = pictures(2)
    for p in data:
        path = root / p.split / p.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(p.image)
    for split in ("train", "val", "test"):
        lines = [
            json.dumps({"file_name": p.name, "text": p.captions[0]}) + "\n"
            for p in data
            if p.split == split
        ]
        (root / split / "metadata.jsonl").write_text("".join(lines))
    manifest = prepare(root)
    assert manifest.counts == {"all": {"train": 4, "val": 4, "test": 4}}
    names = {row["file_name"]: row["image"] for row in stored_rows(manifest, "all", "val")}
    assert names["val/cat-val00.png"] == (root / "val/cat-val00.png").read_bytes()


def test_a_table_leads_to_no_file_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png((5, 5), 5))
    rows = [
        {"image": {"bytes": None, "path": path}, "captions": ["x"], "task": 0}
        for path in (str(tmp_path / "secret.png"), "../secret.png")
    ]
    root = tmp_path / "mine"
    root.mkdir()
    for split, number in (("train", 0), ("test", 1)):
        content = pa.Table.from_pylist(rows[number : number + 1], schema=FEATURES.arrow_schema)
        pq.write_table(content, root / f"{split}.parquet")
    with pytest.raises(DataError, match="train, row 1: column 'image' holds no image"):
        prepare(root)


def test_files_that_rows_name_may_be_links_on_request(tmp_path: Path) -> None:
    """As in the cache of the Hub, where all files are."""
    root = tmp_path / "mine"
    root.mkdir()
    for number, split in enumerate(("train", "test")):
        (tmp_path / f"{split}.blob").write_bytes(png((5, 5), number))
        (root / f"{split}.png").symlink_to(tmp_path / f"{split}.blob")
        row = {"image": {"bytes": None, "path": f"{split}.png"}, "captions": ["x"], "task": 1}
        table = pa.Table.from_pylist([row], schema=FEATURES.arrow_schema)
        pq.write_table(table, root / f"{split}.parquet")
    with pytest.raises(DataError, match="holds no image"):
        prepare(root)
    assert prepare(root, follow_links=True).counts == {"cat": {"train": 1, "test": 1}}


@pytest.mark.parametrize(
    "name", ["../others.jsonl", "/etc/*", "sub/../../x", "https://x/y.parquet"]
)
def test_a_card_sends_nobody_elsewhere(tmp_path: Path, name: str) -> None:
    """A README of a data set may say which files are its data, wherever they are."""
    root = tmp_path / "mine"
    root.mkdir()
    (tmp_path / "others.jsonl").write_text('{"text": "not ours"}')
    files = f'  data_files:\n  - split: train\n    path: "{name}"\n'
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: x\n{files}---\n")
    with pytest.raises(DataError, match="its card names data files in"):
        prepare(root)


def test_a_card_says_which_files_are_of_which_split(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    (root / "parts").mkdir(parents=True)
    for name, split in in_splits(pictures(2)).items():
        split.to_parquet(str(root / "parts" / f"{name[:2]}.parquet"))
    files = "".join(
        f"  - split: {name}\n    path: parts/{name[:2]}.parquet\n" for name in ("train", "test")
    )
    (root / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\nWords.\n"
    )
    assert prepare(root).counts["cat"] == {"train": 2, "test": 2}


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "/etc/passwd", "", 5])
def test_a_saved_directory_names_only_its_own_files(tmp_path: Path, name: object) -> None:
    table(pictures(2)).save_to_disk(str(tmp_path / "mine"))
    state = tmp_path / "mine" / "state.json"
    content = {**json.loads(state.read_text()), "_data_files": [{"filename": name}]}
    state.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no file or folder inside of it"):
        prepare(tmp_path / "mine")


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", bytes(100)])
def test_a_damaged_directory_is_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    table(pictures(2)).save_to_disk(str(tmp_path / "mine"))
    (tmp_path / "mine" / file).write_bytes(content)
    with pytest.raises(PromptideError) as caught:
        prepare(tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_what_is_on_the_hub_needs_a_network_or_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"name cannot be opened by datasets .*hf download"):
        prepare("hf://datasets/owner/name", output=tmp_path)
    with pytest.raises(DataError, match=r"no/such does not exist.*hf://datasets/no/such"):
        prepare("no/such", output=tmp_path)


def test_images_of_the_hub_are_read_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library gives no bytes of them but paths, links to files elsewhere in the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    snapshot = cache / "datasets--owner--name" / "snapshots" / "abc"
    (cache / "blobs").mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number, split in enumerate(rows):
        (snapshot / split).mkdir(parents=True)
        (cache / "blobs" / split).write_bytes(png((5, 5), number))
        (snapshot / split / "x.png").symlink_to(cache / "blobs" / split)
        image = {"bytes": None, "path": str(snapshot / split / "x.png")}
        rows[split] = [{"image": image, "captions": ["x"], "task": 0}]
    opened = {
        split: datasets.Dataset(pa.Table.from_pylist(rows[split], schema=FEATURES.arrow_schema))
        for split in rows
    }
    asked: list[tuple[Any, ...]] = []

    def load(*words: Any, **options: Any) -> datasets.DatasetDict:
        asked.append((*words, options))
        return datasets.DatasetDict(opened)

    monkeypatch.setattr(datasets, "load_dataset", load)
    manifest = prepare("hf://datasets/owner/name", output=tmp_path, revision="abc")
    assert asked == [("owner/name", None, {"revision": "abc"})]
    (row,) = stored_rows(manifest, "dog", "test")
    assert (row["file_name"], row["image"]) == ("test/x.png", png((5, 5), 1))


def test_without_the_library_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"promptide\[hub\]"):
        prepare(tmp_path)


def test_no_code_of_a_data_set_is_run(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="cannot be opened by datasets"):
        prepare(root)
    assert not (tmp_path / "ran").exists()
