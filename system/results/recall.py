"""Recall at k of image-text retrieval, from features, never holding images x texts at once.

The rank of a query is 1 + the number of wrong candidates that score at least as high as its best
right one, less a tolerance: a tie counts against the model, never for it, and rounding that depends
on the batch a feature was computed in does not decide a tie. Other right candidates (the other
captions of an image) are never wrong ones.

Legend: I images, T texts, Q queries, G gallery (candidates), D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor

from system.config.schema import Gallery
from system.errors import ConfigError, DataError
from system.results.metrics import RETRIEVAL, MetricValue

KS = (1, 5, 10)
METRICS = tuple(
    sorted((m.name for m in RETRIEVAL), key=lambda name: name.startswith("i2t"))
)  # by direction
CHUNK = 256  # queries scored at once: 256 x 25,000 texts in float64 are 51 MB
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
    right = query_image[:, None] == candidate_image[None, :]  # [Q, G]
    orphan = ~right.any(dim=1)
    if orphan.any():
        image = int(query_image[orphan][0])
        raise ValueError(f"no candidate in the gallery belongs to image {image}, which is a query")
    if scores.isnan().any():
        raise DataError("scores hold NaN: the features they come from are not finite")
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # [Q, 1]
    ahead = (scores >= best - tie_tolerance) & ~right
    return 1 + ahead.sum(dim=1)


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
    )


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
    )


def recall_at_k(ranks: Tensor, ks: Sequence[int] = KS) -> dict[int, float]:
    """Percent of queries whose rank is at most k, for each k; NaN if there are no queries."""
    return {
        k: 100.0 * float((ranks <= k).double().mean()) if len(ranks) else float("nan") for k in ks
    }


def retrieval_recalls(
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
) -> dict[str, dict[int, MetricValue]]:
    """Recall at 1, 5 and 10 both ways, for each task of the query.

    A recall that cannot fail, because the gallery has no more than k - 1 wrong candidates, is
    undefined: NaN with a reason. Images without a text are searched but do not search.

    Args:
        image_features: [I, D], of any norm.
        text_features: [T, D], of any norm.
        image_of_text: [T] int64, the image each text describes.
        image_task: [I] int64, the task of each image; a text has its image's task.
        tasks: the tasks to report; one without queries is NaN.
        gallery: what a query searches: "all" tasks, the "seen" ones and its own, or its own
            "task".
        seen: the tasks learned so far, for the gallery "seen".
        chunk: queries scored at once.
        tie_tolerance: see `ranks_from_scores`.

    Returns:
        Metric (t2i_r1, t2i_r5, t2i_r10, i2t_r1, i2t_r5, i2t_r10) -> task -> value.

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

    values: dict[str, dict[int, MetricValue]] = {metric: {} for metric in METRICS}
    directions = (  # name, queries, their images, may they search; candidates, their images
        (
            "t2i",
            texts,
            image_of_text,
            torch.ones_like(image_of_text, dtype=torch.bool),
            images,
            image,
        ),
        ("i2t", images, image, captioned, texts, image_of_text),
    )
    for direction, queries, query_image, may_search, candidates, candidate_image in directions:
        for task in tasks:
            asked = (image_task[query_image] == task) & may_search
            found = reachable(image_task[candidate_image], task)
            owner = candidate_image[found]
            asker = query_image[asked]
            ranks = _chunked_ranks(
                queries[asked], candidates[found], asker, owner, chunk, tie_tolerance
            )
            right = torch.bincount(owner, minlength=len(images))[asker]  # [Q]
            worst = int((1 + len(owner) - right).max()) if len(asker) else 0
            for k, value in recall_at_k(ranks, KS).items():
                values[f"{direction}_r{k}"][task] = _value(value, k, len(asker), worst)
    return values


def _value(value: float, k: int, queries: int, worst_rank: int) -> MetricValue:
    """A recall with the reason where it is undefined; `worst_rank`: the worst any query can get."""
    if queries == 0:
        return MetricValue(float("nan"), 0, "no queries")
    if worst_rank <= k:
        reason = (
            f"no query can rank below {worst_rank} in this gallery: recall at {k} is always 100"
        )
        return MetricValue(float("nan"), queries, reason)
    return MetricValue(value, queries)


def _chunked_ranks(
    queries: Tensor,
    candidates: Tensor,
    query_image: Tensor,
    candidate_image: Tensor,
    chunk: int,
    tie_tolerance: float,
) -> Tensor:
    """Ranks [Q] on the CPU of unit-norm queries [Q, D] among candidates [G, D]."""
    ranks = [torch.empty(0, dtype=torch.int64)]
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = queries[rows] @ candidates.T  # [chunk, G]
        ranks.append(
            ranks_from_scores(
                scores, query_image[rows], candidate_image, tie_tolerance=tie_tolerance
            ).cpu()
        )
    return torch.cat(ranks)


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
