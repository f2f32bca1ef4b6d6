"""Small data sets in the very files that Karpathy's splits and Flickr30k Entities come in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from system.data.formats.coco_entries import enclosing_box
from system.data.formats.entities_files import read_boxes, read_sentences
from system.data.shards.manifest import Manifest
from tests.data.coco_files import png

# chain -> its boxes, as published: xmin, ymin, xmax, ymax from 1 on, both corners inside
Chains = Mapping[str, Sequence[tuple[int, int, int, int]]]


def karpathy_image(number: int, split: str, captions: Sequence[str], **more: Any) -> dict[str, Any]:
    """One entry of `images` as Karpathy distributes it (Flickr30k has no filepath and cocoid)."""
    return {
        "sentids": [5 * number + k for k in range(len(captions))],
        "imgid": number,
        "sentences": [
            {
                "tokens": text.lower().strip(".").split(),
                "raw": text,
                "imgid": number,
                "sentid": 5 * number + k,
            }
            for k, text in enumerate(captions)
        ],
        "split": split,
        "filename": f"{1000 + number}.jpg",
        **more,
    }


def write_karpathy(path: Path, images: Sequence[object], dataset: str = "flickr30k") -> Path:
    """Write `dataset_*.json`."""
    path.write_text(json.dumps({"images": images, "dataset": dataset}))
    return path


def write_flickr30k(root: Path, splits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Write Karpathy's file and the photographs of {split: images}; returns the file's entries."""
    (root / "flickr30k-images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    for split, count in splits.items():
        for _ in range(count):
            number = len(images)
            captions = [f"A dog, no. {number}, runs ({k})." for k in range(5)]
            images.append(karpathy_image(number, split, captions))
            photograph = root / "flickr30k-images" / images[-1]["filename"]
            photograph.write_bytes(png((20, 16), number))
    write_karpathy(root / "dataset_flickr30k.json", images)
    return images


def write_entities_image(
    root: Path, name: str, sentences: str, chains: Chains, size: tuple[int, int] = (20, 16)
) -> None:
    """Write one image of Flickr30k Entities: its sentences, its boxes and the photograph."""
    for folder in ("Sentences", "Annotations", "flickr30k-images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "Sentences" / f"{name}.txt").write_text(sentences)
    objects = [
        f"<object><name>{chain}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for chain, boxes in chains.items()
        for box in boxes
    ]
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{''.join(objects)}"
        "<object><name>99</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"
    )
    (root / "flickr30k-images" / f"{name}.jpg").write_bytes(png(size, int(name)))


def write_entities(root: Path, splits: Mapping[str, int]) -> None:
    """Write {split: images}: each has a person in two boxes, a dog in one, a sky without any."""
    next_image = 36979
    for split, count in splits.items():
        names = [str(next_image + i) for i in range(count)]
        next_image += count
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            sentences = [
                "[/EN#1/people Two men] watch [/EN#2/animals a dog] under [/EN#3/scene the sky] .",
                "[/EN#1/people/other The men] look at [/EN#0/notvisual it] .",
                "[/EN#2/animals A brown dog] runs .",
                "It is [/EN#0/notvisual evening] .",
                f"No. {name} .",
            ]
            chains = {"1": [(1, 1, 5, 8), (9, 3, 12, 16)], "2": [(4, 4, 20, 10)]}
            write_entities_image(root, name, "\n".join(sentences) + "\n", chains)


def write_mdetr_flickr(root: Path, splits: Mapping[str, int]) -> Path:
    """What `write_entities` writes, as MDETR's conversion has it, both forms; the files' folder."""
    write_entities(root, splits)
    folder = root / "mdetr_annotations"
    folder.mkdir(exist_ok=True)
    for form in ("separateGT", "mergedGT"):
        number = box_number = 0
        for split in splits:
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for name in (root / f"{split}.txt").read_text().split():
                boxes = read_boxes(root / "Annotations" / f"{name}.xml", raw=True)
                sentences, phrases = read_sentences(root / "Sentences" / f"{name}.txt")
                for index, (text, _) in enumerate(sentences):
                    own = [p for p in phrases if p.sentence == text and p.chain in boxes.of_chain]
                    span = {p: [p.begin, p.begin + len(p.text)] for p in own}
                    images.append(
                        {
                            "file_name": f"{name}.jpg",
                            "height": str(boxes.height),
                            "width": str(boxes.width),
                            "id": number,
                            "caption": text,
                            "dataset_name": "flickr",
                            "tokens_negative": [[0, len(text)]],
                            "sentence_id": index,
                            "original_img_id": int(name),
                            "tokens_positive_eval": [[span[p]] for p in own],
                        }
                    )
                    for chain in dict.fromkeys(p.chain for p in own):
                        of_chain = boxes.of_chain[chain]
                        for box in [enclosing_box(of_chain)] if form == "mergedGT" else of_chain:
                            annotations.append(
                                {
                                    "area": box[2] * box[3],
                                    "iscrowd": 0,
                                    "image_id": number,
                                    "category_id": 1,
                                    "id": box_number,
                                    "bbox": list(box),
                                    "tokens_positive": [span[p] for p in own if p.chain == chain],
                                }
                            )
                            box_number += 1
                    number += 1
            content = {
                "info": [],
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
            }
            (folder / f"final_flickr_{form}_{split}.json").write_text(json.dumps(content))
    return folder


def stored_rows(manifest: Manifest, task: str, split: str) -> list[dict[str, Any]]:
    """All rows of a task's split as the shards have them."""
    rows: list[dict[str, Any]] = []
    for shard in manifest.task(task).handle(split).shards:
        rows += pq.read_table(shard.uri).to_pylist()
    return rows
