"""Ranks of image-text retrieval from float64 scores, each direction and task by itself.

The slow twin of `system.results.ranks`.

Legend: I images, T texts, Q queries, G gallery (candidates), D features, M right candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from system.config.schema import Gallery
from system.results.metrics import MAP_DEPTH
from system.results.ranks import BEYOND, TIE_TOLERANCE, Direction, QueryRanks, average_precision

CHUNK = 256  # queries scored at once


def right_ranks(
    scores: Tensor,
    query_image: Tensor,
    candidate_image: Tensor,
    depth: int,
    *,
    tie_tolerance: float,
) -> Tensor:
    """Ranks [Q, M] of each query's right candidates from scores [Q, G], from the best on.

    The first column is the rank of the best right candidate, however high; further ones are at most
    `depth`, or `BEYOND` it. M is at most `depth`.
    """
    right = query_image[:, None] == candidate_image[None, :]  # [Q, G]
    count = torch.count_nonzero(right, dim=1)
    assert count.all(), "a query without a right candidate"
    most = min(depth, int(count.max())) if len(count) else 1
    best = scores.masked_fill(~right, -torch.inf).topk(most, dim=1).values  # [Q, M]
    wrong = scores.masked_fill(right, -torch.inf)
    ranks = torch.full(best.shape, BEYOND)
    for place in range(most):
        rank = place + 1 + (wrong >= best[:, place, None] - tie_tolerance).sum(dim=1)
        within = (count > place) & (rank <= depth) if place else count > 0
        ranks[:, place] = rank.where(within, BEYOND)
    return ranks


def naive_retrieval_ranks(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor,
    image_task: Tensor,
    *,
    tasks: Sequence[int],
    gallery: Gallery,
    seen: Sequence[int] = (),
    tie_tolerance: float = TIE_TOLERANCE,
) -> list[QueryRanks]:
    """What `retrieval_ranks` gives."""
    unit = torch.nn.functional.normalize
    texts, images = unit(text_features.double(), dim=1), unit(image_features.double(), dim=1)
    image = torch.arange(len(images))
    captioned = torch.bincount(image_of_text, minlength=len(images)) > 0

    def reachable(owner_task: Tensor, task: int) -> Tensor:
        if gallery == "all":
            return torch.ones_like(owner_task, dtype=torch.bool)
        within = [task, *seen] if gallery == "seen" else [task]
        return torch.isin(owner_task, torch.tensor(within))

    every = torch.ones_like(image_of_text, dtype=torch.bool)
    # name, queries, their images, may they search; candidates, their images
    directions: tuple[tuple[Direction, Tensor, Tensor, Tensor, Tensor, Tensor], ...] = (
        ("t2i", texts, image_of_text, every, images, image),
        ("i2t", images, image, captioned, texts, image_of_text),
    )
    results = []
    for direction, queries, query_image, may_search, candidates, candidate_image in directions:
        for task in tasks:
            asked = (image_task[query_image] == task) & may_search
            found = reachable(image_task[candidate_image], task)
            owner, asker = candidate_image[found], query_image[asked]
            parts = [torch.empty(0, 1, dtype=torch.int64)]
            for rows, chunk in zip(
                torch.split(queries[asked], CHUNK), torch.split(asker, CHUNK), strict=True
            ):
                if len(rows):
                    scores = rows @ candidates[found].T
                    parts.append(
                        right_ranks(scores, chunk, owner, MAP_DEPTH, tie_tolerance=tie_tolerance)
                    )
            most = max(part.shape[1] for part in parts)
            ranks = torch.cat(
                [
                    torch.nn.functional.pad(part, (0, most - part.shape[1]), value=BEYOND)
                    for part in parts
                ]
            )
            right = torch.bincount(owner, minlength=len(images))[asker]  # [Q]
            precision = average_precision(ranks, right, MAP_DEPTH)
            asking = asked.nonzero()[:, 0]
            results.append(
                QueryRanks(direction, task, asking, ranks[:, 0], precision, right, len(owner))
            )
    return results


def problem(
    images: int, extra: int, seed: int, width: int = 4, levels: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Features on a coarse grid, so that ties are common; each image has 1 or more texts."""
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.cat(
        [torch.arange(images), torch.randint(images, (extra,), generator=generator)]
    )
    image_of_text = image_of_text[torch.randperm(images + extra, generator=generator)]

    def features(rows: int) -> Tensor:
        grid = torch.randint(-levels, levels + 1, (rows, width), generator=generator).float()
        grid[:, 0] = levels  # no zero vector
        return grid

    return features(images), features(images + extra), image_of_text
