"""A user prepares for an hour and then lacks a file or the room, if these fail."""

from pathlib import Path
from typing import Any

import pytest

from system.data.prepare import diagnosis
from system.data.prepare.dataset import DATASETS
from system.data.prepare.diagnosis import Diagnosis, Room, examine
from system.errors import ConfigError
from system.storage.files import Folder
from tests.data.coco_files import png
from tests.data.tar_files import write_tar

STAGE = {"shuffle_buffer": 10, "micro_batches": 1}


def look(root: Path, dataset: str = "folder", **options: Any) -> Diagnosis:
    model = root.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").write_bytes(bytes(1000))
    training = {"stage": STAGE, "backbone": {"path": str(model)}}
    folder = Folder.of(root.parent / "shards")
    return examine(dataset, {"root": str(root), **options}, folder, training)


def write(root: Path, images: int = 3) -> None:
    (root / "pictures").mkdir(parents=True)
    for number in range(images):
        (root / "pictures" / f"{number}.png").write_bytes(png((10, 10), number))
    lines = [f"{number}.png,no {number}" for number in range(images)]
    (root / "captions.csv").write_text("\n".join(["file_name,caption", *lines]))


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    found = look(tmp_path / "data", images="pictures")
    assert [of.state for of in found.missing] == ["missing", "missing"]
    write(tmp_path / "data")
    found = look(tmp_path / "data", images="pictures")
    assert found.missing == ()
    assert found.findings is not None
    captions, images = found.findings
    assert (images.options, images.files) == (("images",), 3)
    assert captions.path == str(tmp_path / "data" / "captions.csv")
    (tmp_path / "data" / "empty").mkdir()
    (empty,) = look(tmp_path / "data", images="empty").missing
    assert empty.state == "empty"


def test_a_folder_that_is_not_whole_is_missing_something(tmp_path: Path) -> None:
    """An archive that was unpacked by half fails only at the first image that is not there."""
    write(tmp_path / "data")
    (tmp_path / "data" / "dataset_flickr30k.json").write_text("{}")
    (images,) = look(tmp_path / "data", "flickr30k", images="pictures").missing
    assert (images.state, images.files, images.expected) == ("incomplete", 3, 31783)


def test_a_path_that_two_options_name_is_one(tmp_path: Path) -> None:
    split = {"captions": "c.json", "instances": "i.json", "images": "train2014"}
    options: dict[str, Any] = {"splits": {"train": split, "test": split}, "tasks": ["food"]}
    found = look(tmp_path / "data", "coco", **options)
    assert [of.options for of in found.missing] == [
        ("splits.train.captions", "splits.test.captions"),
        ("splits.train.instances", "splits.test.instances"),
        ("splits.train.images", "splits.test.images"),
    ]


def test_the_room_is_that_of_the_images_and_the_model(tmp_path: Path) -> None:
    write(tmp_path / "data")
    found = look(tmp_path / "data", images="pictures")
    size = sum(path.stat().st_size for path in (tmp_path / "data" / "pictures").iterdir())
    needed = {room.what: room.needed for room in found.rooms}
    assert needed["disk for task shards, in data_path"] == size
    assert needed["memory of a run, per worker"] == 1000 + size
    assert all(room.free for room in found.rooms)
    assert Room("disk", 10, 9).lacking
    assert not Room("disk", None, 9).lacking


def test_published_sizes_stand_for_images_that_are_not_there(tmp_path: Path) -> None:
    found = look(tmp_path / "data", "coco_karpathy", tasks=["food"])
    shards, temporary, *_ = found.rooms
    assert shards.needed == 13_510_573_713 + 6_645_013_297
    assert temporary.needed is None


def test_a_prepared_benchmark_is_found_and_needs_no_more_disk(tmp_path: Path) -> None:
    write(tmp_path / "data", images=30)
    options = {"images": "pictures", "task_by": "dataset"}
    DATASETS.get("folder")(
        "mine", str(tmp_path / "shards"), {"root": str(tmp_path / "data"), **options}, None
    )
    found = look(tmp_path / "data", **options)
    assert found.manifest is not None
    assert [room.what for room in found.rooms] == ["memory of a run, per worker"]
    assert found.differing == {}
    other = look(tmp_path / "data", images=".", task_by="dataset")
    assert other.differing == {"benchmark.options.images": ("pictures", ".")}
    images = ("images",)
    assert not other.prepared
    folder = Folder.of(tmp_path / "shards")
    root = {"root": None, "images": "."}  # as the benchmark's config has it
    assert examine("folder", root, folder, {}, given=()).prepared
    assert not examine("folder", root, folder, {}, given=images).prepared
    moved = look(tmp_path / "elsewhere", **options)
    assert moved.differing == {
        "benchmark.options.root": (str(tmp_path / "data"), str(tmp_path / "elsewhere"))
    }


def test_a_data_set_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'imagenet'"):
        look(tmp_path, "imagenet")


def test_tars_are_counted_by_their_ranges(tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "0.tar", [("0.jpg", b"x")])
    (found,) = look(tmp_path / "data", "webdataset", splits={"train": "{0..2}.tar"}).missing
    assert (found.state, found.files, found.expected) == ("incomplete", 1, 3)
    assert look(tmp_path / "data", "webdataset", tars="*.tar").missing == ()


def test_what_is_on_the_hub_is_not_looked_for(tmp_path: Path) -> None:
    options = {"root": "hf://datasets/a/b"}
    assert examine("huggingface", options, Folder.of(tmp_path), {}).findings is None
    (missing,) = look(tmp_path / "data", "huggingface").missing
    assert missing.options == ("root",)


def test_an_option_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        look(tmp_path, imags=".")


def test_a_reader_that_lists_nothing_is_told_apart_from_one_that_needs_nothing(
    tmp_path: Path,
) -> None:
    assert look(tmp_path, "sources").findings is None
    assert look(tmp_path, "openmoji").findings == ()
    assert diagnosis.PREPARE_MEMORY > 0
