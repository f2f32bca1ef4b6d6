"""Queries with what they found before and after learning, for the report."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from system.data.shards.loading import read_images
from system.data.shards.manifest import SplitHandle
from system.data.shards.shard_reader import ShardRow
from system.results.ranks import QueryRanks

if TYPE_CHECKING:
    from system.objectives.retrieval.retrieval_evaluation import Phase, StreamEvaluation

_PHASES: tuple[tuple[str, "Phase"], ...] = (("before", "plain"), ("after", "prompted"))
QUERIES_PER_TASK = 3
SHOWN = 5

SCHEMA = pa.schema(
    [
        ("evaluated_index", pa.int32()),
        ("task", pa.string()),
        ("query_index", pa.int32()),
        ("query", pa.string()),
        ("phase", pa.string()),  # "before" or "after" learning
        ("rank", pa.int32()),
        ("image_id", pa.string()),
        ("score", pa.float64()),
        ("is_target", pa.bool_()),
        ("target_rank", pa.int32()),  # of the query's own image in the gallery
        ("image", pa.binary()),
    ]
)


def retrieval_examples(
    evaluation: "StreamEvaluation", tasks: Sequence[str], open_test: Callable[[int], SplitHandle]
) -> Any:
    """The first images a few captions of each task find, by the frozen backbone and as learned.

    The captions are the first ones of images spread evenly over a task's test split: chosen by
    place, not by result. Returns a table of `SCHEMA`.
    """
    tests = evaluation.tests
    records: list[dict[str, Any]] = []
    target_rank = {
        phase: _text_ranks(evaluation.ranks(features), len(tests.captions))
        for phase, features in _PHASES
    }
    for task, name in enumerate(tasks):
        for number, text in enumerate(_queries(tests.image_of_text, tests.image_task, task)):
            gallery = torch.ones(len(tests.image_task), dtype=torch.bool)
            if evaluation.gallery == "task":
                gallery = tests.image_task == task
            for phase, kind in _PHASES:
                features = evaluation.plain if kind == "plain" else evaluation.prompted
                found = _search(
                    features["text"][text], features["vision"], tests.image_of_text[text], gallery
                )
                records += [
                    {
                        "evaluated_index": task,
                        "task": name,
                        "query_index": number,
                        "query": tests.captions[text],
                        "phase": phase,
                        "target_rank": int(target_rank[phase][text]),
                        **hit,
                    }
                    for hit in found
                ]
    _add_images(records, tests.image_task, tests.row_in_task, open_test)
    return pa.Table.from_pylist(records, schema=SCHEMA)


def _queries(image_of_text: Tensor, image_task: Tensor, task: int) -> list[int]:
    """First captions of up to three images, evenly spread over the task's split."""
    images = (image_task == task).nonzero()[:, 0].tolist()
    count = min(QUERIES_PER_TASK, len(images))
    chosen = [images[i * len(images) // count] for i in range(count)]
    return [int((image_of_text == image).nonzero()[0, 0]) for image in chosen]


def _text_ranks(found: Sequence[QueryRanks], texts: int) -> Tensor:
    """The rank of each text's own image, by its place."""
    ranks = torch.zeros(texts, dtype=torch.long)
    for one in found:
        if one.direction == "t2i":
            ranks[one.queries] = one.ranks
    return ranks


def _search(text: Tensor, images: Tensor, target: Tensor, gallery: Tensor) -> list[dict[str, Any]]:
    """The best images of the gallery for the feature of one text."""
    scores = (images.double() @ text.double()).masked_fill(~gallery, -torch.inf)
    order = torch.argsort(scores, descending=True, stable=True)[: min(SHOWN, int(gallery.sum()))]
    return [
        {
            "rank": place + 1,
            "image_index": int(image),
            "score": float(scores[image]),
            "is_target": bool(image == target),
        }
        for place, image in enumerate(order)
    ]


def _add_images(
    records: list[dict[str, Any]],
    image_task: Tensor,
    row_in_task: Tensor,
    open_test: Callable[[int], SplitHandle],
) -> None:
    """Replace each record's `image_index` by the image's id and bytes."""
    shown = sorted({record["image_index"] for record in records})
    content: dict[int, ShardRow] = {}
    for task in sorted({int(image_task[image]) for image in shown}):
        mine = [image for image in shown if image_task[image] == task]
        rows = [int(row_in_task[image]) for image in mine]
        content |= dict(zip(mine, read_images(open_test(task), rows), strict=True))
    for record in records:
        row = content[record.pop("image_index")]
        record["image_id"], record["image"] = row.image_id, row.web_image()
