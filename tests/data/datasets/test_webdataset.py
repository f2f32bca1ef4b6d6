"""Tars give other shards than the same images in a folder, or lose samples, if these fail."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import DataError, PromptideError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows
from tests.data.hub_files import pictures, shard_bytes, write_folder, write_tars
from tests.data.tar_files import write_tar


def prepare(root: Path, dataset: str = "webdataset", /, **options: Any) -> Manifest:
    output = root.parent / f"shards-{len(list(root.parent.iterdir()))}"  # another each time
    return DATASETS.get(dataset)("mine", str(output), {"root": str(root), **options}, None)


def sample(number: int, text: str | None = None, /, **fields: object) -> list[tuple[str, bytes]]:
    """Members of a sample: an image, and a text or JSON."""
    members = [(f"{number:03d}.png", png((12, 10), number))]
    if text is not None:
        members.append((f"{number:03d}.txt", text.encode()))
    if fields:
        members.append((f"{number:03d}.json", json.dumps(fields).encode()))
    return members


@pytest.mark.parametrize("drawn", [False, True])
def test_the_shards_are_those_of_the_folder_reader_to_the_bit(tmp_path: Path, drawn: bool) -> None:
    """Numbers from tars and from a folder could not be compared else."""
    data = pictures()
    write_folder(tmp_path / "folder", data, splits=not drawn)
    write_tars(tmp_path / "tars", data)
    folder = prepare(tmp_path / "folder", "folder")
    options: dict[str, Any] = {"task_by": "tar"}
    if drawn:
        (tmp_path / "tars").rename(tmp_path / "moved")
        for number, (split, task) in enumerate(
            (s, t) for s in ("train", "val", "test") for t in ("cat", "dog")
        ):
            for tar in sorted((tmp_path / "moved" / split).glob(f"{task}-*.tar")):
                (tmp_path / "tars").mkdir(exist_ok=True)
                tar.rename(tmp_path / "tars" / f"{number}-{tar.name}")
        options = {"task_by": "field", "columns": {"task": "kind"}}
        add_task(tmp_path / "tars")
    tars = prepare(tmp_path / "tars", **options)
    assert tars.counts == folder.counts
    assert tars.fingerprint == folder.fingerprint
    assert shard_bytes(tars) == shard_bytes(folder)


def add_task(folder: Path) -> None:
    """Add a JSON with the task to every sample."""
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            read = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        members: list[tuple[str, bytes]] = []
        for name, content in read:
            members.append((name, content))
            if name.endswith(".txt"):
                task = {"kind": name.partition("-")[0]}
                members.append((name.replace(".txt", ".json"), json.dumps(task).encode()))
        write_tar(path, members)


def test_splits_are_named_by_ranges(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    for number in range(4):
        write_tar(root / f"{number:05d}.tar", sample(number, f"no {number}"))
    manifest = prepare(root, splits={"train": "{00000..00002}.tar", "test": ["00003.tar"]})
    assert manifest.counts == {"all": {"train": 3, "test": 1}}
    rows = stored_rows(manifest, "all", "train")
    assert [row["captions"] for row in rows] == [["no 0"], ["no 1"], ["no 2"]]
    assert [row["image_id"] for row in rows] == ["0", "1", "2"]


def test_captions_are_the_text_or_a_field_of_the_json(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    for split, first in (("train", 0), ("test", 10)):
        members = sample(first, "the text", caption="of the json", key="x", image_id="id-1")
        write_tar(root / f"{split}-0.tar", members)
    (row,) = stored_rows(prepare(root), "all", "train")
    assert (row["captions"], row["image_id"]) == (["the text"], "id-1")
    columns = {"caption": "caption", "image_id": None}
    (row,) = stored_rows(prepare(root, columns=columns), "all", "train")
    assert (row["captions"], row["image_id"]) == (["of the json"], "0")
    with pytest.raises(DataError, match="has no column 'title'"):
        prepare(root, columns={"caption": "title"})


def test_captions_may_be_a_list_in_the_json(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    for split, first in (("train", 0), ("test", 10)):
        write_tar(root / f"{split}.tar", sample(first, captions=["one", "two"]))
    (row,) = stored_rows(prepare(root), "all", "train")
    assert row["captions"] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("train/food-0001.tar", "food"),
        ("food/train/0001.tar", "food"),
        ("train_street_food_12.tar", "street food"),
    ],
)
def test_a_tar_says_the_task(tmp_path: Path, name: str, task: str) -> None:
    root = tmp_path / "tars"
    write_tar(root / name, sample(0, "a text"))
    write_tar(root / name.replace("train", "test"), sample(1, "a text"))
    assert prepare(root, task_by="tar").counts == {task: {"train": 1, "test": 1}}


def test_broken_samples_are_put_aside_one_by_one(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    broken = [
        ("a.txt", b"no image"),
        ("b.png", png((5, 5), 77)),
        ("../c.png", png((5, 5), 78)),
        ("d.png", b"no png"),
        ("d.txt", b"a text"),
    ]
    write_tar(root / "train.tar", [*sample(0, "zero"), *broken, *sample(1, "one")])
    cut = write_tar(root / "test.tar", [*sample(2, "two"), *sample(3, "three")])
    cut.write_bytes(cut.read_bytes()[: 4 * 512 + 600])
    with pytest.raises(DataError):
        prepare(root)
    manifest = prepare(root, on_error="quarantine")
    assert manifest.counts == {"all": {"train": 2, "test": 1}}
    assert sum(of["rows"] for of in manifest.quarantined.values()) == 5


def test_links_in_a_tar_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    write_tar(root / "train.tar", sample(0, "zero"))
    (tmp_path / "secret.png").write_bytes(png((5, 5), 5))
    with tarfile.open(root / "test.tar", "w") as tar:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        tar.addfile(link)
        text = tarfile.TarInfo("1.txt")
        text.size = 1
        tar.addfile(text, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="is a link"):
        prepare(root)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, r"options\.tars: .* does not exist"),
        (["a.tar"], {"splits": {"train": "{0..1}.tar"}}, r"splits\.train: .*0\.tar does not exist"),
        (["train/a.tar", "b.tar"], {}, r"b\.tar names no split, as others do"),
        (["a.tar"], {"splits": {"train": "a.tar", "test": "*.tar"}}, "named for 'train' and for"),
        (["a.tar"], {"splits": {"testing": "a.tar"}}, "a split is one of"),
        (["a.tar"], {"splits": {}}, "at least one split"),
        (["a.tar"], {"task_by": "field"}, "no sample has a field 'task'"),
        (["a.tar"], {"splits": {"train": "https://x/a.tar"}}, "is no path"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    (tmp_path / "tars").mkdir()
    for number, name in enumerate(names):
        write_tar(tmp_path / "tars" / name, sample(number, "a text"))
    with pytest.raises(PromptideError, match=message):
        prepare(tmp_path / "tars", **options)
