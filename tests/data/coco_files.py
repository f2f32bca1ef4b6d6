"""Small datasets written in MSCOCO's own files, for any test that needs one."""

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from system.data.datasets.coco import CocoSource, CocoSplit, read_coco
from system.data.prepare.dataset import Progress
from system.data.prepare.pipeline import write_dataset
from system.data.prepare.split_index import SplitIndex
from system.data.shards.faults import Faults
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.schema import ImageRecord

TASKS = ("animal", "food")


def png(size: tuple[int, int], seed: int = 0) -> bytes:
    """An image (width, height) of noise: as large, encoded, as images get."""
    width, height = size
    pixels = np.random.default_rng([seed]).integers(0, 256, (height, width, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def coco_source(
    root: Path, splits: Sequence[str], tasks: Sequence[str] = TASKS, **settings: Any
) -> CocoSource:
    """The source that `write_coco` wrote."""
    return CocoSource(
        {
            split: CocoSplit(
                f"annotations/captions_{split}.json",
                f"annotations/instances_{split}.json",
                split,
                f"annotations/refs_{split}.json",
            )
            for split in splits
        },
        tuple(tasks),
        root=str(root),
        **settings,
    )


def write_coco(
    root: Path,
    splits: Mapping[str, int],
    tasks: Sequence[str] = TASKS,
    size: tuple[int, int] = (20, 16),
) -> CocoSource:
    """Write captions, instances, refs and images of `splits` {split: images per task} under `root`.

    Image i of a split belongs to task i mod K. Each has a large object of its task (a polygon in
    even images, compressed run lengths in odd ones), a small one of the next task, as many captions
    as 2 + i mod 2, and an expression for each object.
    """
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    width, height = size
    categories = [
        {"id": index + 1, "name": f"{task} thing", "supercategory": task}
        for index, task in enumerate(tasks)
    ]
    next_image = 1
    for split, per_task in splits.items():
        (root / split).mkdir(exist_ok=True)
        images, captions, instances, refs = [], [], [], []
        for index in range(per_task * len(tasks)):
            image_id, task = next_image, index % len(tasks)
            next_image += 1
            name = f"{split}_{image_id:06d}.png"
            (root / split / name).write_bytes(png(size, image_id))
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            captions += [
                {"id": 10 * image_id + k, "image_id": image_id, "caption": f"No. {image_id}-{k}!"}
                for k in range(2 + index % 2)
            ]
            for place, (category, box) in enumerate(
                [
                    (task, (0, 0, width // 2, height)),
                    ((task + 1) % len(tasks), (width - 4, height - 3, 4, 3)),
                ]
            ):
                annotation_id = 10 * image_id + place
                instances.append(
                    {
                        "id": annotation_id,
                        "image_id": image_id,
                        "category_id": category + 1,
                        "bbox": list(box),
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                        "segmentation": _polygon(box) if index % 2 == 0 else _rle(box, size),
                    }
                )
                refs.append(
                    {
                        "ref_id": annotation_id,
                        "ann_id": annotation_id,
                        "image_id": image_id,
                        "category_id": category + 1,
                        "split": split,
                        "sentences": [
                            {
                                "sent_id": annotation_id,
                                "sent": f"the {tasks[category]} of {image_id}",
                                "raw": f"The {tasks[category]} of {image_id}",
                                "tokens": ["the", tasks[category], "of", str(image_id)],
                            }
                        ],
                    }
                )
        top = {"info": {}, "licenses": [], "images": images}
        files = {
            "captions": {**top, "annotations": captions},
            "instances": {**top, "categories": categories, "annotations": instances},
            "refs": refs,
        }
        for kind, content in files.items():
            (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return coco_source(root, list(splits), tasks)


def write_published_coco(
    root: Path, year: int, sizes: Mapping[str, int], tasks: Sequence[str]
) -> None:
    """Lay out what `write_coco` writes as MSCOCO of a year is distributed; splits train and val."""
    made = Path(write_coco(root / "made", sizes, tasks=tasks).root)
    place = root / "annotations"
    place.mkdir(parents=True)
    for split in sizes:
        (made / split).rename(root / f"{split}{year}")
        for kind in ("captions", "instances"):
            (made / f"annotations/{kind}_{split}.json").rename(place / f"{kind}_{split}{year}.json")


def write_karpathy(root: Path, splits: Mapping[int, str]) -> None:
    """Write dataset_coco.json for the images of train2014 and val2014 under `root`.

    `splits` names those of val2014 by image id; all others there are test.
    """
    images: list[dict[str, Any]] = []
    for folder in ("train2014", "val2014"):
        listing = json.loads((root / f"annotations/captions_{folder}.json").read_text())
        for image in listing["images"]:
            number = image["id"]
            texts = [a["caption"] for a in listing["annotations"] if a["image_id"] == number]
            sentids = [100 * number + k for k in range(len(texts))]
            other = splits.get(number, "test")
            images.append(
                {
                    "filepath": folder,
                    "sentids": sentids,
                    "filename": image["file_name"],
                    "imgid": len(images),
                    "split": "train" if folder == "train2014" else other,
                    "sentences": [
                        {
                            "tokens": text.lower().strip("!").split(),
                            "raw": text,
                            "imgid": len(images),
                            "sentid": sentid,
                        }
                        for text, sentid in zip(texts, sentids, strict=True)
                    ],
                    "cocoid": number,
                }
            )
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def prepare_coco(
    source: CocoSource, output: str | Path, progress: Progress | None = None, **settings: Any
) -> Manifest:
    """Prepare a benchmark called "small"; `settings` are those of `write_dataset`."""
    faults = Faults(source.on_error)
    dataset = read_coco(source, faults, progress)
    return write_dataset(
        dataset, str(output), benchmark="small", faults=faults, progress=progress, **settings
    )


def train_handles(root: Path) -> dict[str, SplitHandle]:
    """Prepare two tasks of 21 training rows each, in two shards of row groups of 4."""
    source = write_coco(root / "raw", {"train": 21}, size=(12, 10))
    manifest = prepare_coco(source, root / "shards", row_group_rows=4, shard_rows=16)
    return {entry.name: entry.handle("train") for entry in manifest.tasks}


def strict_index(source: CocoSource, split: str) -> SplitIndex:
    """Index a split; its first broken row is an error."""
    return read_coco(source, Faults("stop")).splits[split]


def read_rows(source: CocoSource, split: str) -> list[ImageRecord]:
    """All rows of a split with their images' bytes."""
    index = strict_index(source, split)
    return [index.load(position) for position in range(len(index))]


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _polygon(box: tuple[int, int, int, int]) -> list[list[int]]:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _rle(box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, object]:
    x, y, width, height = box
    pixels = np.zeros((size[1], size[0]), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def put(*path: str | int, value: object) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def drop(*path: str | int | slice) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit
