"""Small data sets of referring expressions in the UNC release's and in MDETR's own files."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco_mask

from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from tests.data.python2_pickle import python2_pickle

TASKS = ("animal", "food")
SIZE = (40, 32)  # width, height
SPLITS = {"train": 3, "testA": 2, "testB": 1}
Ref = dict[str, Any]
Edit = Callable[[list[dict[str, Any]], dict[str, Any]], None]


def write_images(
    root: Path, splits: Mapping[str, int], tasks: Sequence[str] = TASKS
) -> tuple[dict[str, Any], list[Ref]]:
    """Write MSCOCO's images, and return its instances and the references to them.

    `splits` is {the release's split: images per task}. Image i of a split has a large object of
    task i mod K (a polygon in even images, run lengths in odd ones) that two expressions refer to,
    a small one of the next task that an expression refers to in every other image, and an object
    that none refers to.
    """
    folder = root / "train2014"
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    instances: dict[str, Any] = {
        "info": {"description": "This is dev 1.0 version of the 2014 MS COCO dataset."},
        "licenses": [{"id": 1, "name": "CC", "url": "http://creativecommons.org"}],
        "images": [],
        "annotations": [],
        "categories": [
            {"supercategory": task, "id": index + 1, "name": f"{task} thing"}
            for index, task in enumerate(tasks)
        ],
    }
    refs: list[Ref] = []
    sentences = 0
    for split, per_task in splits.items():
        for index in range(per_task * len(tasks)):
            image_id, task = 1000 + len(instances["images"]), index % len(tasks)
            name = f"COCO_train2014_{image_id:012d}.jpg"
            (folder / name).write_bytes(_jpeg(image_id))
            instances["images"].append(
                {
                    "license": 1,
                    "file_name": name,
                    "coco_url": f"http://mscoco.org/images/{image_id}",
                    "height": height,
                    "width": width,
                    "date_captured": "2013-11-14 11:18:45",
                    "flickr_url": "http://farm1.staticflickr.com",
                    "id": image_id,
                }
            )
            boxes = [(0, 0, 20, 30), (30, 20, 8, 8), (22, 2, 5, 5)]
            for place, box in enumerate(boxes):
                category, annotation_id = (task + place) % len(tasks) + 1, 10 * image_id + place
                instances["annotations"].append(
                    {
                        "segmentation": _polygon(box) if index % 2 == 0 else _run_lengths(box),
                        "area": float(box[2] * box[3]),
                        "iscrowd": 0,
                        "image_id": image_id,
                        "bbox": list(box),
                        "category_id": category,
                        "id": annotation_id,
                    }
                )
                if place == 2 or (place == 1 and index % 2 == 1):
                    continue
                thing, ref_id = tasks[category - 1], len(refs)
                texts = [f"The {thing}, no. {image_id}", f"left {thing} {image_id}"][: 2 - place]
                refs.append(
                    {
                        "sent_ids": list(range(sentences, sentences + len(texts))),
                        "file_name": name.replace(".jpg", f"_{ref_id}.jpg"),
                        "ann_id": annotation_id,
                        "ref_id": ref_id,
                        "image_id": image_id,
                        "split": split,
                        "sentences": [
                            {
                                "tokens": _sent(text).split(),
                                "raw": text,
                                "sent_id": sentences + number,
                                "sent": _sent(text),
                            }
                            for number, text in enumerate(texts)
                        ],
                        "category_id": category,
                    }
                )
                sentences += len(texts)
    return instances, refs


def write_unc(
    root: Path,
    instances: dict[str, Any],
    refs: list[Ref],
    *,
    release: str = "refcoco",
    split_by: str = "unc",
    python: int = 2,
) -> Path:
    """Write the UNC release's folder, the pickle as Python 2 or 3 would; return the pickle."""
    folder = root / release
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(instances))
    path = folder / f"refs({split_by}).p"
    path.write_bytes(python2_pickle(refs) if python == 2 else pickle.dumps(refs))
    return path


def write_mdetr(
    root: Path,
    instances: dict[str, Any],
    refs: list[Ref],
    *,
    release: str = "refcoco",
    masks: bool = True,
    generic: bool = False,
) -> Path:
    """Write MDETR's files, one per split, as its conversion script does; return their folder.

    `masks`: with each annotation's segmentation, as the files of some projects; `generic`: with
    "object" as the only category.
    """
    folder = root / "mdetr_annotations"
    folder.mkdir(parents=True, exist_ok=True)
    image_of = {image["id"]: image for image in instances["images"]}
    annotation_of = {entry["id"]: entry for entry in instances["annotations"]}
    number = 0
    for split in dict.fromkeys(ref["split"] for ref in refs):
        images, annotations = [], []
        for ref in refs:
            if ref["split"] != split:
                continue
            image, annotation = image_of[ref["image_id"]], annotation_of[ref["ann_id"]]
            for sentence in ref["sentences"]:
                images.append(
                    {
                        "file_name": image["file_name"],
                        "height": image["height"],
                        "width": image["width"],
                        "id": number,
                        "original_id": image["id"],
                        "caption": sentence["sent"],
                        "dataset_name": release,
                        "tokens_negative": [[0, len(sentence["sent"])]],
                    }
                )
                annotations.append(
                    {
                        "area": annotation["area"],
                        "iscrowd": annotation["iscrowd"],
                        "image_id": number,
                        "category_id": 1 if generic else ref["category_id"],
                        "id": number,
                        "bbox": annotation["bbox"],
                        "original_id": ref["ann_id"],
                        "tokens_positive": [[0, 3]],
                    }
                )
                if masks:
                    annotations[-1]["segmentation"] = annotation["segmentation"]
                number += 1
        categories = [{"supercategory": "object", "id": 1, "name": "object"}]
        content = {
            "info": instances["info"],
            "licenses": instances["licenses"],
            "images": images,
            "annotations": annotations,
            "categories": categories if generic else instances["categories"],
        }
        (folder / f"finetune_{release}_{split}.json").write_text(json.dumps(content))
    return folder


def options(root: Path, **changes: Any) -> dict[str, Any]:
    """Options of a benchmark on what `write_unc` or, with format="mdetr", `write_mdetr` wrote."""
    unc = changes.get("format", "unc") == "unc"
    return {
        "root": str(root),
        "format": "unc",
        "release": "refcoco",
        "split_by": "unc",
        "annotations": changes.get("release", "refcoco") if unc else "mdetr_annotations",
        "images": "train2014",
        "splits": {"train": ["train"], "test": ["testA", "testB"]},
        "tasks": list(TASKS),
        "caption_rule": "lpi",
        **changes,
    }


def prepare(root: Path, **changes: Any) -> Manifest:
    """Prepare what lies under `root`, as `promptide prepare` does."""
    return DATASETS.get("refcoco")("small", str(root / "data"), options(root, **changes), None)


def rows(manifest: Manifest, task: str, split: str) -> list[dict[str, Any]]:
    """All rows of a task's split, in order."""
    return [
        row
        for shard in manifest.task(task).handle(split).shards
        for row in pq.read_table(shard.uri).to_pylist()
    ]


def put(*path: Any, value: Any) -> Edit:
    """Change the references, or the instances if the path starts so."""

    def edit(refs: list[dict[str, Any]], instances: dict[str, Any]) -> None:
        content: Any = instances if path[0] in instances else refs
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def _sent(text: str) -> str:
    """Clean as the release's authors did: lower case, punctuation gone."""
    return text.lower().replace(",", "").replace(".", "")


def _jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng([seed]).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def _polygon(box: tuple[int, int, int, int]) -> list[list[int]]:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height]]  # a triangle: not its box


def _run_lengths(box: tuple[int, int, int, int]) -> dict[str, object]:
    x, y, width, height = box
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8, order="F")
    pixels[y : y + height - 1, x : x + width] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}
