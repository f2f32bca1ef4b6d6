"""Ranks of image-text retrieval, never holding images x texts at once.

The rank of a query is 1 + the number of wrong candidates that score at least as high as its best
right one, less a tolerance: a tie counts against the model, never for it, and rounding that depends
on the batch a feature was computed in does not decide a tie. Other right candidates (the other
captions of an image) are never wrong ones.

The m-th best of several right candidates has the rank m + the number of such wrong ones.

Legend: I images, T texts, Q queries, D features, M right candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from system.config.schema import Gallery
from system.errors import ConfigError, DataError
from system.results.metrics import MAP_DEPTH
from system.results.score_tiles import Block, Share, Tile, UnitRows, count_ahead, rows_of

BEYOND = 2**31 - 1  # a rank beyond the depth that is looked at
Direction = Literal["t2i", "i2t"]
TIE_TOLERANCE = 1e-6  # of cosine similarity; float32 encoders repeat themselves to about 1e-7


@dataclass(frozen=True)
class QueryRanks:
    """What the queries of one direction and task found in their gallery.

    Attributes:
        direction: texts that search images (t2i), or images that search texts (i2t).
        task: the task of the queries.
        queries: [Q] the texts or images that search, by their place among all.
        ranks: [Q] of each query's best right candidate, from 1.
        precision: [Q] average precision at `MAP_DEPTH`, in 0..1.
        right: [Q] right candidates of each query.
        gallery: candidates that each query searches.
    """

    direction: Direction
    task: int
    queries: Tensor
    ranks: Tensor
    precision: Tensor
    right: Tensor
    gallery: int

    @property
    def worst(self) -> int:
        """The worst rank that any of the queries can get; 0 without queries."""
        return int((1 + self.gallery - self.right).max()) if len(self.right) else 0


def average_precision(ranks: Tensor, right: Tensor, depth: int) -> Tensor:
    """Average precision at `depth` [Q] float64, in 0..1, from ranks [Q, M] of `right_ranks`.

    `right` [Q] is the number of each query's right candidates. See `FORMULAS` of
    `system.results.metrics`.
    """
    place = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = (place / ranks.double()).where(ranks <= depth, 0.0)
    return precision.sum(dim=1) / right.clamp(max=depth)


def retrieval_ranks(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor,
    image_task: Tensor,
    *,
    tasks: Sequence[int],
    gallery: Gallery,
    seen: Sequence[int] = (),
    tie_tolerance: float = TIE_TOLERANCE,
    device: torch.device | None = None,
    tile: Tile | None = None,
    share: Share = Share(),  # noqa: B008 - frozen
) -> list[QueryRanks]:
    """Ranks both ways, for each task of the query. Images without a text do not search.

    Args:
        image_features: [I, D], of any norm.
        text_features: [T, D], of any norm.
        image_of_text: [T] int64, the image each text describes.
        image_task: [I] int64, the task of each image; a text has its image's task.
        tasks: the tasks of the queries.
        gallery: what a query searches: "all" tasks, the "seen" ones and its own, or its own
            "task".
        seen: the tasks learned so far, for the gallery "seen".
        tie_tolerance: wrong candidates this far below the right one still count as ties.
        device: where scores are computed; by default where the image features are.
        tile: the most scores at once; by default what suits the device.
        share: the part of the scores that is computed here, and how the others' come in.

    Returns:
        One for each direction and task, on the CPU; the same for each part of the work.

    Raises:
        ConfigError: an unknown gallery.
        DataError: a feature is NaN or infinite.
        ValueError: sizes disagree.
    """
    if gallery not in ("all", "seen", "task"):
        raise ConfigError(f"evaluation gallery is {gallery!r}; set it to 'all', 'seen' or 'task'")
    device = image_features.device if device is None else device
    if device.type == "mps":  # has no float64
        device = torch.device("cpu")
    tile = Tile.on(device) if tile is None else tile
    _check(text_features, image_features, image_of_text, image_task)
    image_of_text, image_task = image_of_text.cpu(), image_task.cpu()
    text_task = image_task[image_of_text]
    known = set(image_task.tolist())
    shared = {"all": known, "seen": known & set(seen), "task": set[int]()}[gallery]
    images, texts = (_Places.of(of, tasks, shared) for of in (image_task, text_task))
    place = torch.full_like(image_task, -1)
    place[images.order] = torch.arange(len(images.order))
    rows = rows_of(tile, image_features.shape[1])
    of_images, of_texts = count_ahead(
        UnitRows(image_features, images.order, device, rows),
        UnitRows(text_features, texts.order, device, rows),
        place[image_of_text[texts.order]],
        _blocks(images, texts),
        depth=MAP_DEPTH,
        tie_tolerance=tie_tolerance,
        tile=tile,
        share=share,
    )
    captions = torch.bincount(image_of_text, minlength=len(image_task))
    one = torch.ones_like(image_of_text)
    # name, who searches; task, right candidates and ranks by row; candidates
    directions: tuple[tuple[Direction, Tensor, Tensor, Tensor, Tensor, _Places], ...] = (
        ("t2i", one > 0, text_task, one, texts.ranks(of_texts[:, None], one), images),
        ("i2t", captions > 0, image_task, captions, images.ranks(of_images, captions), texts),
    )
    results = []
    for direction, may_search, row_task, right_of, ranks_of, candidates in directions:
        for task in tasks:
            queries = ((row_task == task) & may_search).nonzero()[:, 0]
            right = right_of[queries]
            most = min(MAP_DEPTH, int(right.max())) if len(right) else 1
            ranks = ranks_of[queries, :most]
            results.append(
                QueryRanks(
                    direction,
                    task,
                    queries,
                    ranks[:, 0],
                    average_precision(ranks, right, MAP_DEPTH),
                    right,
                    candidates.gallery(task),
                )
            )
    return results


@dataclass(frozen=True)
class _Places:
    """One side's rows in the order in which they are multiplied: those together that one searches.

    First come the tasks that every query searches, those of queries before the others; then the
    other tasks of queries, which their own queries alone search.
    """

    order: Tensor  # [n] the row at each place
    rows: int  # in all
    asked: range  # places of queries in the shared part
    shared: range
    own: dict[int, range]  # task -> places

    @classmethod
    def of(cls, row_task: Tensor, tasks: Sequence[int], shared: set[int]) -> _Places:
        """Of rows with these tasks, for the queries of `tasks`, which search the `shared` ones."""
        asked = dict.fromkeys(tasks)
        alone = [task for task in asked if task not in shared]
        groups = [[task for task in asked if task in shared], [*(shared - set(asked))]]
        rows = [
            torch.isin(row_task, torch.tensor(group, dtype=row_task.dtype)).nonzero()[:, 0]
            for group in (*groups, *([task] for task in alone))
        ]
        ends = torch.tensor([len(part) for part in rows]).cumsum(0).tolist()
        own = {task: range(*ends[i : i + 2]) for i, task in enumerate(alone, start=1)}
        return cls(torch.cat(rows), len(row_task), range(ends[0]), range(ends[1]), own)

    @property
    def unasked(self) -> range:
        """Candidates of every query that are none themselves."""
        return range(self.asked.stop, self.shared.stop)

    @property
    def apart(self) -> range:
        """All that is not shared."""
        return range(self.shared.stop, len(self.order))

    def gallery(self, task: int) -> int:
        """Candidates that a query of the task searches on this side."""
        return len(self.shared) + len(self.own.get(task, ()))

    def ranks(self, ahead: Tensor, right: Tensor) -> Tensor:
        """Ranks [rows, M] from counts [n, M] by place; see `count_ahead`. Others are `BEYOND`.

        `right` [rows] is the number of each row's right candidates.
        """
        ranks = torch.full((self.rows, ahead.shape[1]), BEYOND)
        place = torch.arange(1, ahead.shape[1] + 1)
        found = place + ahead.cpu()
        kept = (place == 1) | ((found <= MAP_DEPTH) & (place <= right[self.order, None]))
        ranks[self.order] = found.where(kept, BEYOND)
        return ranks


def _blocks(images: _Places, texts: _Places) -> list[Block]:
    """Each product that some query needs, once."""
    return [
        Block(images.asked, texts.asked, i2t=True, t2i=True),
        Block(images.asked, texts.unasked, i2t=True, t2i=False),
        Block(images.unasked, texts.asked, i2t=False, t2i=True),
        Block(images.apart, texts.shared, i2t=True, t2i=False),
        Block(images.shared, texts.apart, i2t=False, t2i=True),
        *(Block(images.own[task], texts.own[task], i2t=True, t2i=True) for task in images.own),
    ]


def _check(texts: Tensor, images: Tensor, image_of_text: Tensor, image_task: Tensor) -> None:
    """Refuse what cannot be ranked."""
    if texts.ndim != 2 or images.ndim != 2 or texts.shape[1] != images.shape[1]:
        raise ValueError(
            f"text features {tuple(texts.shape)} and image features {tuple(images.shape)} "
            "must both be [rows, D] with the same D"
        )
    if image_of_text.shape != (len(texts),):
        raise ValueError(
            f"image_of_text has shape {tuple(image_of_text.shape)}; pass an image for each of the "
            f"{len(texts)} texts"
        )
    if len(texts) and not 0 <= int(image_of_text.min()) <= int(image_of_text.max()) < len(images):
        raise ValueError(f"image_of_text names images outside 0..{len(images) - 1}")
    if image_task.shape != (len(images),):
        raise ValueError(f"image_task has shape {tuple(image_task.shape)}; pass a task an image")
    _check_finite(images, "image")
    _check_finite(texts, "text")


def _check_finite(features: Tensor, modality: str) -> None:
    if not features.numel():
        return
    largest = torch.linalg.vector_norm(features.detach(), torch.inf, dim=1)
    broken = (~torch.isfinite(largest)).nonzero()[:, 0]
    if len(broken):
        raise DataError(
            f"{modality} features: {len(broken)} of {len(features)} rows hold NaN or infinity "
            f"(the first is row {int(broken[0])}); training diverged or the adapter is damaged: "
            "lower the learning rate or load another checkpoint"
        )
