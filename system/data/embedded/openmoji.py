"""The embedded benchmark: twelve tasks of pictogram scenes, written in MSCOCO's own files.

A scene of a task has two pictograms of the task's super-category, which its captions name, and two
others or six; most scenes stand in the task's own setting; none has a mark. Pictures and files
depend on the seed alone, and any scene can be made without the others.
"""

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from system.config.parse import parse_dataclass
from system.data.datasets.coco import CocoSource, CocoSplit, read_coco
from system.data.embedded.pictograms import (
    ATTRIBUTION,
    LICENSE_URL,
    SUPER_CATEGORIES,
    Catalogue,
    catalogue,
    raster,
)
from system.data.embedded.scene_captions import expression, task_captions
from system.data.embedded.scenes import (
    MOST_PICTOGRAMS,
    SETTINGS,
    SIZE,
    Scene,
    compose,
    visible_mask,
)
from system.data.embedded.web_scenes import crowd, other_pictograms
from system.data.prepare.dataset import Dataset, Progress
from system.data.prepare.moved_data import refuse_other_origin
from system.data.prepare.needed_files import no_files
from system.data.prepare.origin import Origin
from system.data.prepare.pipeline import write_dataset
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from system.uris import expanded

SPLITS = ("train", "val", "test")
_MADE_FROM = "openmoji.json"  # the config that a finished folder was made from
_CROWDED = MOST_PICTOGRAMS
_OWN_SIZES = {4: (24, 26, 28, 30), _CROWDED: (18, 20)}
_OTHER_SIZES = {4: (18, 20, 22), _CROWDED: (14, 16)}
_PAIRS_SEED = 1_000_000  # the scenes' seeds end with 1, 2 or 3


@dataclass(frozen=True)
class OpenmojiConfig:
    """Settings of the benchmark; `train`, `val` and `test` are numbers of scenes per task.

    Raises ConfigError for values that do not fit together.
    """

    seed: int = 0
    train: int = 800
    val: int = 100
    test: int = 200
    pictograms_per_task: int = 32
    captions_per_scene: int = 3
    objects: int = 4  # pictograms of a scene: 4, or 8 smaller ones
    own_setting: float = 0.9  # share of a task's scenes in the task's own setting
    tasks: tuple[str, ...] = SUPER_CATEGORIES

    def __post_init__(self) -> None:
        catalogue(self.pictograms_per_task)
        for task in self.tasks:
            if task not in SUPER_CATEGORIES:
                raise ConfigError(
                    f"benchmark.options.tasks: {task!r} is unknown; choose from "
                    f"{', '.join(SUPER_CATEGORIES)}"
                )
        if min(self.train, self.val, self.test) < 1:
            raise ConfigError("benchmark.options: train, val and test must be 1 or more")
        pairs = self.pictograms_per_task * (self.pictograms_per_task - 1) // 2
        if self.test + self.val >= pairs:
            raise ConfigError(
                f"benchmark.options: {self.pictograms_per_task} pictograms make {pairs} pairs, too "
                f"few for test={self.test} and val={self.val} scenes, each of its own pair; lower "
                "them or raise pictograms_per_task"
            )
        if self.objects not in _OWN_SIZES:
            raise ConfigError(f"benchmark.options.objects={self.objects}: choose 4 or {_CROWDED}")
        if not 2 <= self.captions_per_scene <= 5:
            raise ConfigError("benchmark.options.captions_per_scene: choose 2 to 5")


def pairs_of(config: OpenmojiConfig, task: str, split: str) -> list[tuple[int, int]]:
    """List the pairs of pictograms (indices in the catalogue) that a split's scenes name, in order.

    No pair is in two splits. In val and test each is used once, so no two scenes have the same
    answer; train goes through the rest again and again.
    """
    position = SUPER_CATEGORIES.index(task)
    members = catalogue(config.pictograms_per_task).of(task)
    pairs = list(itertools.combinations(members, 2))
    order = np.random.default_rng([config.seed, position, 0, _PAIRS_SEED]).permutation(len(pairs))
    shuffled = [pairs[index] for index in order]
    first_val, first_train = config.test, config.test + config.val
    if split == "test":
        return shuffled[:first_val]
    return shuffled[first_val:first_train] if split == "val" else shuffled[first_train:]


def task_scene(
    config: OpenmojiConfig, task: str, split: str, index: int
) -> tuple[Scene, list[str]]:
    """Make one scene and its captions; its first two pictograms are the named ones.

    The task's pictograms cover more than those of any other super-category, because that is how
    MSCOCO's images are assigned to tasks.
    """
    pictograms = catalogue(config.pictograms_per_task)
    position = SUPER_CATEGORIES.index(task)
    rng = np.random.default_rng([config.seed, position, index, 1 + SPLITS.index(split)])
    pairs = pairs_of(config, task, split)
    others = crowd if config.objects == _CROWDED else other_pictograms
    chosen = np.array([*pairs[index % len(pairs)], *others(rng, pictograms, position)])
    sizes = np.concatenate(
        [
            rng.choice(_OWN_SIZES[config.objects], 2),
            rng.choice(_OTHER_SIZES[config.objects], config.objects - 2),
        ]
    )
    while (rival := _rival(pictograms, chosen, sizes)) is not None:
        # of a crowd one alone shrinks, since thin pictograms have no pixel left at small sizes
        sizes[rival if len(chosen) == _CROWDED else slice(2, None)] -= 2
    setting = position if rng.random() < config.own_setting else int(rng.integers(len(SETTINGS)))
    scene = compose(rng, pictograms, chosen, sizes, setting, None)
    first, second = scene.placed[:2]
    return scene, task_captions(rng, pictograms, first, second, config.captions_per_scene)


def _rival(
    pictograms: Catalogue, chosen: "np.ndarray[Any, Any]", sizes: "np.ndarray[Any, Any]"
) -> int | None:
    """The largest of the super-category that covers most, None if that is the first two's own."""
    items = [pictograms.pictograms[index] for index in chosen]
    covered = [
        int((raster(item.code, int(size))[..., 3] > 127).sum())
        for item, size in zip(items, sizes, strict=True)
    ]
    areas: dict[str, int] = {}
    for item, area in zip(items, covered, strict=True):
        areas[item.super_category] = areas.get(item.super_category, 0) + area
    own = areas.pop(items[0].super_category)
    most = max(areas, key=lambda name: areas[name])
    if own > areas[most]:
        return None
    return max(
        (i for i, item in enumerate(items) if item.super_category == most),
        key=lambda i: covered[i],
    )


def generate(
    root: Path, config: OpenmojiConfig, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the benchmark's files under `root`; a folder made from the same config is kept.

    Files appear under their final name only when all are written. `progress` gets the scenes done
    and all scenes. Raises DataError if `root` holds anything else.
    """
    made_from = json.loads(json.dumps(asdict(config)))
    if root.exists() and any(root.iterdir()):
        marker = root / _MADE_FROM
        if not marker.is_file() or json.loads(marker.read_text("utf-8")) != made_from:
            raise DataError(
                f"{root} holds other files than this benchmark config makes: remove it or set "
                "benchmark.options.root to another folder"
            )
        return
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "annotations").mkdir(parents=True)
    total = len(config.tasks) * sum(getattr(config, split) for split in SPLITS)
    done = 0
    for split in SPLITS:
        writer = _SplitWriter(partial, config, split)
        for task in config.tasks:
            for index in range(getattr(config, split)):
                writer.add(task, index)
                done += 1
                if progress is not None:
                    progress(done, total)
        writer.close()
    (partial / _MADE_FROM).write_text(json.dumps(made_from, indent=2) + "\n", "utf-8")
    os.replace(partial, root)


class _SplitWriter:
    """Images and annotations of one split, in MSCOCO's and (refs) UNC's structure."""

    def __init__(self, root: Path, config: OpenmojiConfig, split: str) -> None:
        self.root, self.config, self.split = root, config, split
        self.pictograms = catalogue(config.pictograms_per_task)
        self.images: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] = []
        self.refs: list[dict[str, Any]] = []
        # Ids are unique over the splits.
        self.base = (1 + SPLITS.index(split)) * 10_000_000
        (root / split).mkdir()

    def add(self, task: str, index: int) -> None:
        scene, captions = task_scene(self.config, task, self.split, index)
        image_id = self.base + len(self.images) + 1
        file_name = f"{image_id:012d}.jpg"
        picture = Image.fromarray(scene.pixels)
        picture.save(self.root / self.split / file_name, "JPEG", quality=95, subsampling=0)
        self.images.append(
            {"id": image_id, "file_name": file_name, "width": SIZE, "height": SIZE, "license": 1}
        )
        for caption in captions:
            caption_id = self.base + len(self.captions) + 1
            self.captions.append({"id": caption_id, "image_id": image_id, "caption": caption})
        for placed in sorted(scene.placed, key=lambda item: item.slot):
            self._add_object(image_id, placed.pictogram + 1, visible_mask(self.pictograms, placed))
            self._add_expression(expression(self.pictograms, placed))

    def _add_object(
        self, image_id: int, category_id: int, mask: "np.ndarray[Any, np.dtype[np.bool_]]"
    ) -> None:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        self.instances.append(
            {
                "id": self.base + len(self.instances) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
                "area": int(coco_mask.area(encoded)),
                "iscrowd": 0,
                "segmentation": {"size": [SIZE, SIZE], "counts": encoded["counts"].decode("ascii")},
            }
        )

    def _add_expression(self, text: str) -> None:
        """An expression for the object that was added last."""
        instance = self.instances[-1]
        number = self.base + len(self.refs) + 1
        self.refs.append(
            {
                "ref_id": number,
                "ann_id": instance["id"],
                "image_id": instance["image_id"],
                "category_id": instance["category_id"],
                "split": self.split,
                "sentences": [
                    {"sent_id": number, "sent": text, "raw": text, "tokens": text.split()}
                ],
            }
        )

    def close(self) -> None:
        head = {
            "info": {"description": "promptide embedded benchmark", "contributor": ATTRIBUTION},
            "licenses": [{"id": 1, "name": "CC BY-SA 4.0", "url": LICENSE_URL}],
            "images": self.images,
        }
        categories = [
            {"id": index + 1, "name": item.word, "supercategory": item.super_category}
            for index, item in enumerate(self.pictograms.pictograms)
        ]
        self._write("captions", {**head, "annotations": self.captions})
        self._write("instances", {**head, "categories": categories, "annotations": self.instances})
        self._write("refs", self.refs)

    def _write(self, kind: str, content: object) -> None:
        path = self.root / "annotations" / f"{kind}_{self.split}.json"
        path.write_text(json.dumps(content), "utf-8")


def coco_source(root: Path, tasks: tuple[str, ...]) -> CocoSource:
    """Make the COCO reader's options for what `generate` wrote."""
    splits = {
        split: CocoSplit(
            captions=f"annotations/captions_{split}.json",
            instances=f"annotations/instances_{split}.json",
            images=split,
            refs=f"annotations/refs_{split}.json",
        )
        for split in SPLITS
    }
    return CocoSource(splits, tasks, root=str(root))


def prepare_openmoji(
    benchmark: str,
    output: str,
    options: Mapping[str, Any],
    progress: Progress | None,
    *,
    replace: bool = False,
) -> Manifest:
    """Make the benchmark's files, then its task shards, from a benchmark config.

    `options` are the fields of `OpenmojiConfig` and `root`, a local folder where MSCOCO's files
    stay; without it they are made in a temporary one. Raises ConfigError, DataError, StorageError.
    """
    origin = Origin.of("openmoji", options)
    if not replace:
        refuse_other_origin(origin, benchmark, output)
    options = dict(options)
    root = options.pop("root", None)
    config = parse_dataclass(OpenmojiConfig, options, "benchmark.options")

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("scenes", done, total)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "openmoji" if root is None else expanded(root)
        generate(folder, config, report)
        faults = Faults("stop")
        dataset = read_coco(coco_source(folder, config.tasks), faults, progress)
        return write_dataset(
            dataset,
            output,
            benchmark=benchmark,
            faults=faults,
            progress=progress,
            origin=origin,
            replace=replace,
        )


DATASET = Dataset(OpenmojiConfig, prepare_openmoji)
NEEDED = no_files
