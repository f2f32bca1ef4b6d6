"""The embedded benchmark's files: whole, the same every time, without leaks between splits."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.data.embedded.openmoji import (
    SPLITS,
    OpenmojiConfig,
    coco_source,
    generate,
    pairs_of,
    task_scene,
)
from system.data.embedded.pictograms import SUPER_CATEGORIES, catalogue
from system.data.embedded.scenes import visible_mask
from system.data.prepare.dataset import DATASETS
from system.data.shards.masks import mask_area
from system.errors import ConfigError, DataError
from tests.data.coco_files import read_rows, strict_index

SMALL = OpenmojiConfig(train=6, val=3, test=4, pictograms_per_task=6)
PAIR = dataclasses.replace(SMALL, tasks=("food", "animal"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "openmoji"
    generate(folder, SMALL)
    return folder


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_split_reads_back_by_the_coco_reader_task_by_task(root: Path) -> None:
    """The largest-area rule must give back the task that a scene was made for."""
    source = coco_source(root, SUPER_CATEGORIES)
    for split in SPLITS:
        index = strict_index(source, split)
        tasks = [index.load(place).task for place in range(len(index))]
        assert not any(index.skipped.values())
        assert tasks == [t for t in SUPER_CATEGORIES for _ in range(getattr(SMALL, split))]


def test_rows_hold_what_is_seen(root: Path) -> None:
    """Wrong boxes, masks, captions or expressions would make every result of the demo wrong."""
    source = coco_source(root, SUPER_CATEGORIES)
    words = {item.word for item in catalogue(6).pictograms}
    for row in read_rows(source, "test"):
        assert (row.width, row.height) == (64, 64)
        assert len(row.instances) == 4
        own = {i.category for i in row.instances if i.super_category == row.task}
        assert len(own) == 2
        assert len(set(row.captions)) == 3
        for caption in row.captions:
            assert set(caption.split()) & words == own
        for instance in row.instances:
            x, y, width, height = instance.box
            assert 0 <= x < x + width <= 64
            assert 0 <= y < y + height <= 64
            assert 0 < mask_area(instance.mask) <= width * height
        named = [row.instances[e.instance].category for e in row.expressions]
        texts = [e.text for e in row.expressions]
        assert len(set(texts)) == 4
        assert all(category in text.split() for category, text in zip(named, texts, strict=True))


def test_the_same_config_makes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """Results of two machines could not be compared otherwise."""
    generate(tmp_path / "again", SMALL)
    assert _digest(tmp_path / "again") == _digest(root)


def test_another_seed_makes_other_pictures() -> None:
    other = dataclasses.replace(SMALL, seed=1)
    first, second = (task_scene(config, "food", "test", 0)[0] for config in (SMALL, other))
    assert not np.array_equal(first.pixels, second.pixels)


def test_a_scene_is_the_same_alone_and_in_the_files(root: Path) -> None:
    """Splits can only be made in parts, or checked, if a scene does not depend on the others."""
    scene, captions = task_scene(SMALL, "outdoor", "val", 1)
    listing = json.loads((root / "annotations" / "captions_val.json").read_text("utf-8"))
    image = listing["images"][2 * SMALL.val + 1]
    with Image.open(root / "val" / image["file_name"]) as picture:
        difference = np.abs(np.asarray(picture).astype(int) - scene.pixels)
    assert difference.mean() < 4  # JPEG
    found = [a["caption"] for a in listing["annotations"] if a["image_id"] == image["id"]]
    assert found == captions


@pytest.mark.parametrize("task", SUPER_CATEGORIES)
def test_the_tasks_pictograms_cover_most_of_a_crowded_scene(task: str) -> None:
    """Otherwise the reader of MSCOCO's files would put the scene into another task."""
    config = OpenmojiConfig(objects=8)
    pictograms = catalogue(config.pictograms_per_task)
    for index in range(5):
        scene, _ = task_scene(config, task, "test", index)
        assert len({placed.pictogram for placed in scene.placed}) == 8
        areas: dict[str, int] = {}
        for placed in scene.placed:
            kind = pictograms.pictograms[placed.pictogram].super_category
            areas[kind] = areas.get(kind, 0) + int(visible_mask(pictograms, placed).sum())
        assert max(areas, key=lambda kind: areas[kind]) == task


@pytest.mark.parametrize("task", SUPER_CATEGORIES)
def test_no_named_pair_is_in_two_splits_or_twice_in_a_test(task: str) -> None:
    """A test pair seen in training would be a leak; one asked for twice has two right answers."""
    config = OpenmojiConfig()
    pairs = {split: pairs_of(config, task, split) for split in SPLITS}
    flat = [pair for split in SPLITS for pair in pairs[split]]
    assert len(flat) == len(set(flat)) == 32 * 31 // 2
    assert len(pairs["test"]) == config.test
    assert len(pairs["val"]) == config.val


def test_most_scenes_of_a_task_stand_in_its_setting() -> None:
    """The setting is what tells an image's task; in all scenes it would be too easy a sign."""
    config = OpenmojiConfig()
    own = [task_scene(config, "sports", "test", index)[0].setting == 1 for index in range(200)]
    assert 0.85 < sum(own) / len(own) < 0.97


def test_a_whole_folder_is_kept_and_any_other_is_refused(root: Path, tmp_path: Path) -> None:
    """Making it anew would cost minutes; mixing two benchmarks would spoil both."""
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate(root, SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(DataError, match=r"remove it or set benchmark\.options\.root"):
        generate(root, dataclasses.replace(SMALL, seed=1))
    (tmp_path / "mine.txt").write_text("not a benchmark")
    with pytest.raises(DataError, match="holds other files"):
        generate(tmp_path, SMALL)


def test_an_interrupted_making_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    """Half a benchmark that is taken for whole gives results that are wrong and look right."""

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    target = tmp_path / "openmoji"
    with pytest.raises(KeyboardInterrupt):
        generate(target, PAIR, stop)
    assert not target.exists()
    generate(target, PAIR)
    generate(tmp_path / "whole", PAIR)
    assert _digest(target) == _digest(tmp_path / "whole")


def test_the_prepare_command_makes_task_shards(tmp_path: Path) -> None:
    """`promptide prepare benchmark=openmoji` is the first command of every new user."""
    seen: list[str] = []
    options = {"root": str(tmp_path / "files"), "train": 3, "val": 1, "test": 2}
    manifest = DATASETS.get("openmoji")(
        "openmoji",
        str(tmp_path / "shards"),
        {**options, "pictograms_per_task": 5, "tasks": ["food", "animal"]},
        lambda phase, done, total: seen.append(phase),
    )
    assert [entry.name for entry in manifest.tasks] == ["food", "animal"]
    assert manifest.counts["food"] == {"train": 3, "val": 1, "test": 2}
    assert seen[0] == "scenes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 600}, "make 496 pairs, too few for test=600"),
        ({"val": 0}, "must be 1 or more"),
        ({"objects": 5}, "objects=5: choose 4 or 8"),
        ({"captions_per_scene": 9}, "captions_per_scene: choose 2 to 5"),
        ({"tasks": ("cars",)}, "'cars' is unknown; choose from appliance"),
        ({"pictograms_per_task": 99}, "pictograms_per_task"),
    ],
)
def test_impossible_settings_are_refused_with_the_remedy(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenmojiConfig(**options)  # type: ignore[arg-type]
