"""Classes get another's captions, order or split, or a mistake goes in silently, if these fail."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError, PromptideError
from tests.data.coco_files import png
from tests.data.flickr_files import stored_rows


def write(root: Path, names: Iterable[str], first: int = 0) -> None:
    """Write an image under each name, all of them different, by numbers from `first` on."""
    for number, name in enumerate(names, first):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png((12, 10), number))


def prepare(root: Path, **options: Any) -> Manifest:
    return DATASETS.get("class_folder")(
        "mine", str(root.parent / "out"), {"root": str(root), **options}, None, replace=True
    )


def divided(*classes: str) -> list[str]:
    return [
        f"{s}/{c}/{i}.png" for s in ("train", "validation", "test") for c in classes for i in "ab"
    ]


def test_a_class_is_named_by_its_directory_in_every_template(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, divided("guinea_pig", "dog"))
    manifest = prepare(root, templates=["a photo of a {}.", "{}, a kind of {}"])
    assert manifest.counts == {"classes_1-2": {"train": 4, "val": 4, "test": 4}}
    first, *_, last = stored_rows(manifest, "classes_1-2", "val")
    assert first["file_name"] == first["image_id"] == "validation/dog/a.png"
    assert first["image"] == (root / "validation/dog/a.png").read_bytes()
    assert last["captions"] == ["a photo of a guinea pig.", "guinea pig, a kind of guinea pig"]


def test_classes_in_groups_follow_the_seed_as_in_the_field(tmp_path: Path) -> None:
    """Class orders are published as seeds of NumPy: another order is another benchmark."""
    assert np.random.RandomState(1993).permutation(100)[:5].tolist() == [68, 56, 78, 8, 23]
    root = tmp_path / "data"
    write(root, divided(*(f"c{n}" for n in range(5))))
    manifest = prepare(root, classes_per_task=2, class_seed=1993)
    np.random.seed(1993)
    order = [f"c{n}" for n in np.random.permutation(5)]
    assert manifest.source["classes"] == {
        "classes_1-2": order[:2],
        "classes_3-4": order[2:4],
        "classes_5-5": order[4:],
    }
    row = stored_rows(manifest, "classes_5-5", "test")[0]
    assert row["captions"] == [f"a photo of a {order[4]}."]


def test_a_list_orders_classes_and_leaves_out_others(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, divided("ant", "bee", "cat"))
    manifest = prepare(root, classes=["cat", "ant"], classes_per_task=1)
    assert list(manifest.counts) == ["classes_1-1", "classes_2-2"]
    assert manifest.source["classes"] == {"classes_1-1": ["cat"], "classes_2-2": ["ant"]}
    assert manifest.skipped["train"] == {"other_class": 2}
    with pytest.raises(ConfigError, match=r"options\.classes: .*has no class cow"):
        prepare(root, classes=["cow"])


def test_data_sets_side_by_side_are_tasks(tmp_path: Path) -> None:
    """Some have splits on disk, others are divided by lot, and classes may have the same name."""
    root = tmp_path / "data"
    write(root, [f"aircraft/{name}" for name in divided("plane")])
    write(root, [f"caltech/{c}/{i}.jpg.png" for c in ("plane", "cup") for i in range(40)], 100)
    manifest = prepare(root, task_by="directory", tasks=["caltech", "aircraft"])
    assert list(manifest.counts) == ["caltech", "aircraft"]
    assert manifest.counts["aircraft"] == {"train": 2, "val": 2, "test": 2}
    assert sum(manifest.counts["caltech"].values()) == 80
    rows = stored_rows(manifest, "caltech", "train")
    assert {row["captions"][0] for row in rows} == {"a photo of a plane.", "a photo of a cup."}


def test_a_name_may_be_for_one_data_set_alone(tmp_path: Path) -> None:
    """A crane is a bird in one data set and a machine in the next."""
    root = tmp_path / "data"
    write(root, [f"{of}/{name}" for of in ("birds", "machines") for name in divided("crane")])
    names = {"crane": "crane bird", "machines/crane": "crane machine"}
    (root / "names.json").write_text(json.dumps(names))
    manifest = prepare(root, task_by="directory", names="names.json")
    assert manifest.source["classes"] == {"birds": ["crane bird"], "machines": ["crane machine"]}


def test_drawn_splits_are_those_of_the_folder_reader(tmp_path: Path) -> None:
    """The same files divided in two ways could not be compared."""
    root = tmp_path / "data"
    names = [f"{c}/{i:02d}.png" for c in ("cat", "dog") for i in range(30)]
    write(root, names)
    (root / "captions.csv").write_text(
        "file_name,caption\n" + "".join(f"{name},a photo of a {name[:3]}.\n" for name in names)
    )
    classes = prepare(root, task_by="dataset")
    folder = DATASETS.get("folder")(
        "mine", str(tmp_path / "other"), {"root": str(root), "task_by": "dataset"}, None
    )
    assert classes.counts == folder.counts
    for split in ("train", "val", "test"):
        theirs = stored_rows(folder, "all", split)
        for ours, row in zip(stored_rows(classes, "all", split), theirs, strict=True):
            for field in ("file_name", "captions", "image"):
                assert ours[field] == row[field]


@pytest.mark.parametrize("name", ["names.json", "LOC_synset_mapping.txt"])
def test_ids_of_imagenet_get_names_from_a_file(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    write(root, [f"{s}/{c}/x{s}.png" for s in ("train", "val") for c in ("n01440764", "n02112018")])
    splits = {"train": "train", "test": "val"}
    with pytest.raises(DataError, match=r"options\.names: class 'n01440764' is a WordNet id"):
        prepare(root, splits=splits)
    names = {"n01440764": "tench", "n02112018": "Pomeranian", "n00000001": "not here"}
    (root / name).write_text(
        json.dumps(names)
        if name.endswith(".json")
        else "".join(f"{key} {value}\n" for key, value in names.items())
    )
    manifest = prepare(root, splits=splits, names=name)
    assert manifest.counts == {"classes_1-2": {"train": 2, "test": 2}}
    assert stored_rows(manifest, "classes_1-2", "test")[0]["captions"] == ["a photo of a tench."]
    (root / name).write_text('{"n01440764": "x", "n02112018": "x"}' if name[-1] == "n" else
                             "n01440764 x\nn02112018 x\n")  # fmt: skip
    with pytest.raises(DataError, match="both called 'x'"):
        prepare(root, splits=splits, names=name)


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, [*divided("ant"), "train/ant/deep/er.png", "train/.cache/x.png"])
    (root / "train/ant/notes.txt").write_text("x")
    (root / "train/ant/._a.png").write_bytes(b"x")
    (root / "train/ant/linked").symlink_to(root / "test/ant")
    manifest = prepare(root)
    assert manifest.counts["classes_1-1"]["train"] == 3
    assert manifest.skipped["train"] == {"other_file": 1, "hidden_file": 1, "linked_directory": 1}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a.png"], {}, "has no directories of classes"),
        (["train/a/x.png", "test/b/y.png"], {}, "no class 'b' among the training images"),
        (["train/a/x.png", "val/images/y.png"], {}, "no class 'images' among"),
        (["train/a/x.png", "dogs/y.png"], {}, "'dogs' holds images beside those of the splits"),
        (["train/a/x.png", "test/a/.keep"], {"splits": {"train": "training"}}, "no directories"),
        (["a/x.png"], {"templates": ["a photo"]}, "templates="),
        (["a/x.png"], {"classes_per_task": 0}, "classes_per_task=0"),
        (["a/x.png"], {"classes": ["a", "a"]}, "classes must name each class once"),
        (["a/x.png"], {"splits": {"testing": "a"}}, "a split is one of"),
        (["a/x.png"], {"names": "gone.json"}, "gone.json"),
        (["a/x.png"], {"names": "gone.txt"}, "gone.txt"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    write(tmp_path / "data", names)
    with pytest.raises(PromptideError, match=message):
        prepare(tmp_path / "data", **options)


def test_a_broken_image_is_one_row(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, divided("ant"))
    (root / "train/ant/broken.png").write_bytes(b"no image")
    outside = tmp_path / "outside.png"
    outside.write_bytes(png((5, 5), 99))
    (root / "train/ant/link.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"train/ant/link\.png"):
        prepare(root)
    manifest = prepare(root, on_error="quarantine")
    assert {kind: found["rows"] for kind, found in manifest.quarantined.items()} == {
        "path": 1,
        "undecodable image": 1,
    }
    assert manifest.counts["classes_1-1"]["train"] == 2


def test_links_are_followed_on_request(tmp_path: Path) -> None:
    """As the cache of the Hub lays images out: links to files elsewhere."""
    root = tmp_path / "data"
    write(root, divided("ant"))
    blob = tmp_path / "blobs" / "x"
    blob.parent.mkdir()
    blob.write_bytes(png((5, 5), 99))
    (root / "train/ant/link.png").symlink_to(blob)
    with pytest.raises(DataError, match="follow_links=true"):
        prepare(root)
    assert prepare(root, follow_links=True).counts["classes_1-1"]["train"] == 3


def test_a_small_task_is_drawn_into_all_splits(tmp_path: Path) -> None:
    """Ten pictures of a class must not fail by the lot."""
    root = tmp_path / "data"
    write(root, [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)])
    manifest = prepare(root, classes_per_task=1)
    assert manifest.counts["classes_2-2"] == {"train": 1, "val": 1, "test": 1}
    write(root, ["cow/1.png"], first=50)
    with pytest.raises(DataError, match="task 'classes_3-3' has 1 image"):
        prepare(root, classes_per_task=1)
