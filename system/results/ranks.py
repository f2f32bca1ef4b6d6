"""Ranks of image-text retrieval, never holding images x texts at once.

The rank of a query is 1 + the number of wrong candidates that score at least as high as its best
right one, less a tolerance: a tie counts against the model, never for it, and rounding that depends
on the batch a feature was computed in does not decide a tie. Other right candidates (the other
captions of an image) are never wrong ones.

The m-th best of several right candidates has the rank m + the number of such wrong ones.

Legend: I images, T texts, Q queries, G gallery (candidates), D features, M right candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor

from system.config.schema import Gallery
from system.errors import ConfigError, DataError
from system.results.metrics import MAP_DEPTH

BEYOND = 2**31 - 1  # a rank beyond the depth that is looked at
CHUNK = 256  # queries scored at once: 256 x 25,000 texts in float64 are 51 MB
Direction = Literal["t2i", "i2t"]
TIE_TOLERANCE = 1e-6  # of cosine similarity; float32 encoders repeat themselves to about 1e-7


def ranks_from_scores(
    scores: Tensor, query_image: Tensor, candidate_image: Tensor, *, tie_tolerance: float
) -> Tensor:
    """Rank of each query's best right candidate, from all scores.

    A candidate is right if it belongs to the query's image: for text queries over images the query
    belongs to its image and candidate i is image i; for image queries over texts the reverse.

    Args:
        scores: [Q, G], higher is better.
        query_image: [Q], the image of each query.
        candidate_image: [G], the image of each candidate.
        tie_tolerance: wrong candidates this far below the right one still count as ties.

    Returns:
        [Q] int64, from 1.

    Raises:
        ValueError: a query has no right candidate.
        DataError: a score is NaN.
    """
    return right_ranks(scores, query_image, candidate_image, 1, tie_tolerance=tie_tolerance)[:, 0]


def right_ranks(
    scores: Tensor,
    query_image: Tensor,
    candidate_image: Tensor,
    depth: int,
    *,
    tie_tolerance: float,
) -> Tensor:
    """Ranks of each query's right candidates, from the best on, as far as they are within `depth`.

    Arguments and errors as of `ranks_from_scores`.

    Returns:
        [Q, M] int64, from 1: the first column is the rank of the best right candidate, however
        high; further ones are at most `depth`, or `BEYOND` it. M is at most `depth`.
    """
    right = query_image[:, None] == candidate_image[None, :]  # [Q, G]
    count = torch.count_nonzero(right, dim=1)
    if not count.all():
        image = int(query_image[count == 0][0])
        raise ValueError(f"no candidate in the gallery belongs to image {image}, which is a query")
    if scores.isnan().any():
        raise DataError("scores hold NaN: the features they come from are not finite")
    most = min(depth, int(count.max())) if len(count) else 1
    best = scores.masked_fill(~right, -torch.inf).topk(most, dim=1).values  # [Q, M]
    wrong = scores.masked_fill(right, -torch.inf)
    ranks = torch.full(best.shape, BEYOND, device=scores.device)
    ranks[:, 0] = 1 + torch.count_nonzero(wrong >= best[:, :1] - tie_tolerance, dim=1)
    for place in range(1, most):
        # The ones after a candidate beyond the depth are beyond it too.
        within = ((ranks[:, place - 1] <= depth) & (count > place)).nonzero()[:, 0]
        if not len(within):
            break
        ahead = wrong[within] >= best[within, place, None] - tie_tolerance
        rank = place + 1 + torch.count_nonzero(ahead, dim=1)
        ranks[within, place] = rank.where(rank <= depth, BEYOND)
    return ranks


def average_precision(ranks: Tensor, right: Tensor, depth: int) -> Tensor:
    """Average precision at `depth` [Q] float64, in 0..1, from ranks [Q, M] of `right_ranks`.

    `right` [Q] is the number of each query's right candidates. See `FORMULAS` of
    `system.results.metrics`.
    """
    place = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = (place / ranks.double()).where(ranks <= depth, 0.0)
    return precision.sum(dim=1) / right.clamp(max=depth)


def text_to_image_ranks(
    text_features: Tensor,
    image_features: Tensor,
    image_of_text: Tensor,
    *,
    queries: Tensor | None = None,
    gallery: Tensor | None = None,
    chunk: int = CHUNK,
    tie_tolerance: float = TIE_TOLERANCE,
) -> Tensor:
    """Rank of each text's own image among the images of the gallery, by cosine similarity.

    Args:
        text_features: [T, D], of any norm.
        image_features: [I, D], of any norm.
        image_of_text: [T] int64, the image each text describes.
        queries: [Q] indices of the texts to rank; all by default.
        gallery: [I] bool, the images to search; all by default. It holds the queries' own images.
        chunk: queries scored at once.
        tie_tolerance: see `ranks_from_scores`.

    Returns:
        [Q] int64 on the CPU, from 1.

    Raises:
        DataError: a feature is NaN or infinite.
        ValueError: sizes disagree, or the gallery lacks a query's image.
    """
    texts, images, image_of_text = _checked(text_features, image_features, image_of_text)
    image = torch.arange(len(images), device=images.device)
    queries = _indices(queries, texts)
    mask = _mask(gallery, images)
    return _chunked_ranks(
        texts[queries], images[mask], image_of_text[queries], image[mask], chunk, tie_tolerance
    )[:, 0]


def image_to_text_ranks(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor,
    *,
    queries: Tensor | None = None,
    gallery: Tensor | None = None,
    chunk: int = CHUNK,
    tie_tolerance: float = TIE_TOLERANCE,
) -> Tensor:
    """Rank of the best of each image's own texts among the texts of the gallery.

    Images may have different numbers of texts.

    Args:
        image_features: [I, D], of any norm.
        text_features: [T, D], of any norm.
        image_of_text: [T] int64, the image each text describes.
        queries: [Q] indices of the images to rank; all by default.
        gallery: [T] bool, the texts to search; all by default. It holds a text of each query.
        chunk: queries scored at once.
        tie_tolerance: see `ranks_from_scores`.

    Returns:
        [Q] int64 on the CPU, from 1.

    Raises:
        DataError: a feature is NaN or infinite.
        ValueError: sizes disagree, or the gallery holds no text of a query.
    """
    texts, images, image_of_text = _checked(text_features, image_features, image_of_text)
    queries = _indices(queries, images)
    mask = _mask(gallery, texts)
    return _chunked_ranks(
        images[queries], texts[mask], queries, image_of_text[mask], chunk, tie_tolerance
    )[:, 0]


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


def retrieval_ranks(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor,
    image_task: Tensor,
    *,
    tasks: Sequence[int],
    gallery: Gallery,
    seen: Sequence[int] = (),
    chunk: int = CHUNK,
    tie_tolerance: float = TIE_TOLERANCE,
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
        chunk: queries scored at once.
        tie_tolerance: see `ranks_from_scores`.

    Returns:
        One for each direction and task, on the CPU.

    Raises:
        ConfigError: an unknown gallery.
        DataError: a feature is NaN or infinite.
        ValueError: sizes disagree.
    """
    if gallery not in ("all", "seen", "task"):
        raise ConfigError(f"evaluation gallery is {gallery!r}; set it to 'all', 'seen' or 'task'")
    texts, images, image_of_text = _checked(text_features, image_features, image_of_text)
    if image_task.shape != (len(images),):
        raise ValueError(f"image_task has shape {tuple(image_task.shape)}; pass a task an image")
    image_task = image_task.to(images.device)
    image = torch.arange(len(images), device=images.device)
    captioned = torch.bincount(image_of_text, minlength=len(images)) > 0

    def reachable(owner_task: Tensor, task: int) -> Tensor:
        if gallery == "all":
            return torch.ones_like(owner_task, dtype=torch.bool)
        within = [task, *seen] if gallery == "seen" else [task]
        return torch.isin(owner_task, torch.tensor(within, device=owner_task.device))

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
            owner = candidate_image[found]
            asker = query_image[asked]
            ranks = _chunked_ranks(
                queries[asked], candidates[found], asker, owner, chunk, tie_tolerance, MAP_DEPTH
            )
            right = torch.bincount(owner, minlength=len(images))[asker].cpu()  # [Q]
            results.append(
                QueryRanks(
                    direction,
                    task,
                    asked.nonzero()[:, 0].cpu(),
                    ranks[:, 0],
                    average_precision(ranks, right, MAP_DEPTH),
                    right,
                    len(owner),
                )
            )
    return results


def _chunked_ranks(
    queries: Tensor,
    candidates: Tensor,
    query_image: Tensor,
    candidate_image: Tensor,
    chunk: int,
    tie_tolerance: float,
    depth: int = 1,
) -> Tensor:
    """Ranks [Q, M] on the CPU of unit-norm queries [Q, D] among candidates [G, D].

    See `right_ranks`; a column that a chunk lacks is `BEYOND`.
    """
    parts = [torch.empty(0, 1, dtype=torch.int64)]
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = queries[rows] @ candidates.T  # [chunk, G]
        ranks = right_ranks(
            scores, query_image[rows], candidate_image, depth, tie_tolerance=tie_tolerance
        )
        parts.append(ranks.cpu())
    most = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, most - part.shape[1]), value=BEYOND) for part in parts])


def _checked(texts: Tensor, images: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-norm float64 features and the index beside them; refuses what cannot be ranked."""
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
    unit_images = _unit(images, "image")
    return _unit(texts, "text"), unit_images, image_of_text.to(unit_images.device)


def _unit(features: Tensor, modality: str) -> Tensor:
    """Unit-norm rows in float64, in which a chunk's size changes no comparison worth the name."""
    bad = (~torch.isfinite(features)).any(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0, 0])
        raise DataError(
            f"{modality} features: {int(bad.sum())} of {len(features)} rows hold NaN or infinity "
            f"(the first is row {first}); training diverged or the adapter is damaged: "
            "lower the learning rate or load another checkpoint"
        )
    if features.device.type == "mps":  # has no float64
        features = features.cpu()
    return F.normalize(features.detach().double(), dim=1)


def _indices(chosen: Tensor | None, rows: Tensor) -> Tensor:
    if chosen is None:
        return torch.arange(len(rows), device=rows.device)
    return chosen.to(rows.device)


def _mask(chosen: Tensor | None, rows: Tensor) -> Tensor:
    if chosen is None:
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    return chosen.to(rows.device)
