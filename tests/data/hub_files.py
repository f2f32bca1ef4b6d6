"""The same small data set in the forms of several tools: a folder, tars, tables of `datasets`."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from system.data.shards.manifest import Manifest
from tests.data.coco_files import png
from tests.data.tar_files import write_tar


@dataclass(frozen=True)
class Picture:
    """An image and what is said of it."""

    name: str
    image: bytes
    captions: tuple[str, ...]
    task: str
    split: str


def pictures(per_split: int = 12) -> list[Picture]:
    """Images of two tasks in three splits."""
    return [
        Picture(
            f"{task}-{split}{number:02d}.png",
            png((12, 10), 100 * place + number),
            (f"A {task}, {split} no. {number}.",),
            task,
            split,
        )
        for place, (split, task) in enumerate(
            (split, task) for split in ("train", "val", "test") for task in ("cat", "dog")
        )
        for number in range(per_split)
    ]


def write_folder(root: Path, data: list[Picture], *, splits: bool = True) -> dict[str, Any]:
    """Write images and a captions file. Returns: options of the folder reader."""
    for picture in data:
        path = root / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.image)
    with (root / "captions.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file_name", "caption", "task", *(["split"] if splits else [])])
        for p in data:
            for caption in p.captions:
                rows.writerow([p.name, caption, p.task, *([p.split] if splits else [])])
    return {"root": str(root)}


def write_tars(root: Path, data: list[Picture], per_tar: int = 5) -> None:
    """Write tars of each split and task, `split/task-0000.tar`, in the order of `data`."""
    groups: dict[tuple[str, str], list[Picture]] = {}
    for picture in data:
        groups.setdefault((picture.split, picture.task), []).append(picture)
    for (split, task), members in groups.items():
        for number, first in enumerate(range(0, len(members), per_tar)):
            write_tar(
                root / split / f"{task}-{number:04d}.tar",
                [
                    pair
                    for p in members[first : first + per_tar]
                    for pair in (
                        (p.name, p.image),
                        (p.name.replace(".png", ".txt"), p.captions[0].encode()),
                    )
                ],
            )


def shard_bytes(manifest: Manifest) -> dict[tuple[str, str], list[bytes]]:
    """The bytes of all shard files, by task and split."""
    return {
        (task.name, split): [Path(shard.uri).read_bytes() for shard in shards]
        for task in manifest.tasks
        for split, shards in task.splits.items()
    }
