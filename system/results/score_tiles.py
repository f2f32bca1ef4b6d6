"""Wrong candidates ahead of the right ones, counted both ways from one float32 product.

A tile of images x texts is multiplied once: for the texts that search images, and for the images
that search texts. A score that float32 cannot tell from its threshold is computed again in float64,
so that the counts are those of float64 scores. The error of a dot product of unit vectors is at
most about D 2^-24 in whatever order it is summed (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1).

Legend: I images, T texts, D features, M places of right candidates, R x C a tile of images x texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WORD = 8  # marks of pairs that are looked at together, as the bytes of an int64
MOST_WORDS = 64  # more than one marked word per so many pairs are too many to look at singly
_LEAST_NORM = 1e-12  # as of torch.nn.functional.normalize


def _alone(counts: Tensor) -> Tensor:
    return counts


@dataclass(frozen=True)
class Share:
    """One of `size` equal parts of the products, and how the counts of all parts are added.

    `total` gives each part the sum of all parts' integer tensors, which are of one shape; all of
    them have to call it, in the same order.
    """

    rank: int = 0
    size: int = 1
    total: Callable[[Tensor], Tensor] = _alone

    def of(self, places: range) -> range:
        """This part of the places."""
        first, last = (len(places) * rank // self.size for rank in (self.rank, self.rank + 1))
        return places[first:last]


@dataclass(frozen=True)
class Tile:
    """The most images and texts that are multiplied at once: it bounds the memory."""

    images: int
    texts: int

    @classmethod
    def on(cls, device: torch.device) -> Tile:
        """4 MB of scores, which a CPU's caches hold; 64 MB to fill an accelerator."""
        return cls(512, 2048) if device.type == "cpu" else cls(2048, 8192)

    @property
    def pairs(self) -> int:
        """Scores of a tile."""
        return self.images * self.texts


@dataclass(frozen=True)
class Block:
    """Images and texts, by their places, of which one side searches the other, or each does."""

    images: range
    texts: range
    i2t: bool
    t2i: bool


class UnitRows:
    """Features [n, D] scaled to unit length: all of them in float32, some at a time in float64."""

    def __init__(self, features: Tensor, order: Tensor, device: torch.device, rows: int) -> None:
        """`order` [n] is the row of `features` at each place; `rows` are scaled at once."""
        self._features = features.detach().to(device)
        self._order = order.to(device)
        self._norm = torch.empty(len(order), 1, dtype=torch.float64, device=device)
        self.single = torch.empty(len(order), features.shape[1], device=device)
        for part in map(_slice, runs(range(len(order)), rows)):
            chosen = self._features[self._order[part]]
            norm = torch.linalg.vector_norm(chosen, dim=1, keepdim=True, dtype=torch.float64)
            self._norm[part] = norm.clamp_min_(_LEAST_NORM)
            torch.div(chosen, self._norm[part].float(), out=self.single[part])

    def double(self, places: slice | Tensor) -> Tensor:
        """Rows in float64, in which a tile's size changes no comparison worth the name."""
        return self._features[self._order[places]].double() / self._norm[places]


def count_ahead(
    images: UnitRows,
    texts: UnitRows,
    owner: Tensor,
    blocks: Sequence[Block],
    *,
    depth: int,
    tie_tolerance: float,
    tile: Tile,
    share: Share,
) -> tuple[Tensor, Tensor]:
    """How many wrong candidates score at least as high as a right one, less the tolerance.

    Args:
        images: [I, D].
        texts: [T, D].
        owner: [T] int64, the place of each text's image; its other texts are no wrong candidates.
        blocks: who searches whom.
        depth: of an image's right candidates the best ones that are looked at.
        tie_tolerance: of cosine similarity.
        tile: the most that is multiplied at once.
        share: the part of the products that is computed here.

    Returns:
        Of images [I, M] int64, for each of their right texts from the best on: exact for the first,
        and for the others up to where their rank is beyond `depth`. Of texts [T], for their image.
    """
    counter = _Counter(images, texts, owner, depth, tie_tolerance, tile)
    with _single_precision(images.single.device):
        for block in blocks:
            for rows in runs(block.images, tile.images):
                for columns in runs(share.of(block.texts), tile.texts):
                    counter.add(rows, columns, i2t=block.i2t, t2i=block.t2i)
    # A place whose counting was ended early has at least as many ahead as the one before it.
    of_images = share.total(counter.of_images).cummax(dim=1).values
    return of_images, share.total(counter.of_texts)


@dataclass(frozen=True)
class _Side:
    """The queries of one direction: what a wrong candidate must score, and how many do."""

    least: Tensor  # [n, M] float64, for each right candidate, the best first
    counts: Tensor  # [n, M] int64
    depth: int
    candidates: int  # the dimension of a tile along which they lie

    def places(self, images: range, texts: range) -> slice:
        """The queries' places in a tile."""
        return _slice(images if self.candidates else texts)

    def along(self, of_queries: Tensor) -> Tensor:
        """What is of each query [n], so that it broadcasts over a tile."""
        return of_queries[:, None] if self.candidates else of_queries

    def wanted(self, places: slice) -> Tensor:
        """`least` of these queries; infinite where a rank beyond `depth` is not counted on.

        A place has at least as many ahead as the ones before it. The first is always counted.
        """
        least, counts = self.least[places], self.counts[places]
        if least.shape[1] == 1:
            return least
        place = torch.arange(1, counts.shape[1] + 1, device=counts.device)
        going_on = counts.cummax(dim=1).values + place <= self.depth
        going_on[:, 0] = True
        return least.where(going_on, torch.inf)


class _Counter:
    """The counts so far, and the memory that tiles are computed in."""

    def __init__(
        self,
        images: UnitRows,
        texts: UnitRows,
        owner: Tensor,
        depth: int,
        tie_tolerance: float,
        tile: Tile,
    ) -> None:
        device, width = images.single.device, images.single.shape[1]
        self.images, self.texts = images, texts
        self.owner = owner.to(device)
        self.rows = rows_of(tile, width)
        # Of a sum of D products of rounded factors; the rest is for the rounding of a threshold.
        self.error = 1.01 * (width + 8) * 2.0**-24
        text = torch.arange(len(owner), device=device)
        right = self._double(self.owner, text)
        best = _best_first(right, self.owner, len(images.single), depth)
        self.of_texts = torch.zeros_like(text)
        self.of_images = torch.zeros_like(best, dtype=torch.int64)
        least = right[:, None] - tie_tolerance
        self._text_side = _Side(least, self.of_texts[:, None], depth, 0)
        # Infinite where an image has fewer texts.
        self._image_side = _Side(best - tie_tolerance, self.of_images, depth, 1)
        most = min(tile.images, len(images.single)) * min(tile.texts, len(text))
        room = -(-most // WORD) * WORD
        self._product = torch.empty(most, device=device)
        self._ahead, self._maybe = torch.zeros(2, room, dtype=torch.bool, device=device)

    def add(self, images: range, texts: range, *, i2t: bool, t2i: bool) -> None:
        """Count in one tile."""
        rows, columns, shape = _slice(images), _slice(texts), (len(images), len(texts))
        scores = self._product[: shape[0] * shape[1]].view(shape)
        torch.mm(self.images.single[rows], self.texts.single[columns].T, out=scores)
        own = self.owner[columns] - images.start
        column = ((own >= 0) & (own < len(images))).nonzero()[:, 0]
        right = (own[column], column)
        scores[right] = -torch.inf
        for side in [self._text_side] * t2i + [self._image_side] * i2t:
            least = side.wanted(side.places(images, texts))
            few = self._pairs_from(side, least.amin(dim=1), scores, scores.numel() // MOST_WORDS)
            if few is not None:
                self._add_pairs(side, 0, least, few, scores, images, texts)
            elif not self._add_many(side, least, scores, images, texts):
                # As of a model that answers the same to everything.
                exact = self.images.double(rows) @ self.texts.double(columns).T
                exact[right] = -torch.inf
                self._add_exact(side, exact, images, texts)

    def _add_pairs(
        self,
        side: _Side,
        start: int,
        wanted: Tensor,
        pairs: tuple[Tensor, Tensor],
        scores: Tensor,
        images: range,
        texts: range,
    ) -> None:
        """Count for right candidates from index `start` on, among all pairs that may be ahead."""
        row, column = pairs
        image, text = row + images.start, column + texts.start
        query = image if side.candidates else text
        score = scores[row, column].double()
        place = row if side.candidates else column
        for index in range(start, wanted.shape[1]):
            needed = wanted[place, index]
            hit = score >= needed
            near = ((score - needed).abs() <= self.error).nonzero()[:, 0]
            hit[near] = self._double(image[near], text[near]) >= needed[near]
            side.counts[:, index].index_add_(0, query, hit.long())

    def _add_many(
        self, side: _Side, least: Tensor, scores: Tensor, images: range, texts: range
    ) -> bool:
        """Count in a tile with many ahead; False, and nothing counted, with many near `least`."""
        ahead, maybe = self._mask(self._ahead, scores.shape), self._mask(self._maybe, scores.shape)
        torch.ge(scores, side.along((least[:, 0] + self.error).float()), out=ahead)
        torch.ge(scores, side.along((least[:, 0] - self.error).float()), out=maybe)
        near = self._pairs(maybe.bitwise_xor_(ahead), scores.numel() // MOST_WORDS)
        if near is None:
            return False
        image, text = near[0] + images.start, near[1] + texts.start
        query = image if side.candidates else text
        hit = self._double(image, text) >= side.least[query, 0]
        counts = side.counts[:, 0]
        counts.index_add_(0, query, hit.long())
        counts[side.places(images, texts)] += torch.count_nonzero(ahead, dim=side.candidates)
        if least.shape[1] > 1:
            least = side.wanted(side.places(images, texts))
            further = least[:, 1:].amin(dim=1)
            pairs = self._pairs_from(side, further, scores, scores.numel())
            assert pairs is not None, "no pairs are too many here"
            self._add_pairs(side, 1, least, pairs, scores, images, texts)
        return True

    def _add_exact(self, side: _Side, exact: Tensor, images: range, texts: range) -> None:
        """Count in one tile of float64 scores."""
        places = side.places(images, texts)
        for index in range(side.least.shape[1]):
            ahead = exact >= side.along(side.least[places, index])
            side.counts[places, index] += torch.count_nonzero(ahead, dim=side.candidates)

    def _pairs_from(
        self, side: _Side, lowest: Tensor, scores: Tensor, most_words: int
    ) -> tuple[Tensor, Tensor] | None:
        """The pairs that may score at least `lowest` [n], a value for each query."""
        maybe = self._mask(self._maybe, scores.shape)
        torch.ge(scores, side.along((lowest - self.error).float()), out=maybe)
        return self._pairs(maybe, most_words)

    def _mask(self, room: Tensor, shape: Sequence[int]) -> Tensor:
        used = shape[0] * shape[1]
        room[used : used + WORD] = False  # what an earlier tile left in the last word
        return room[:used].view(shape)

    def _pairs(self, mask: Tensor, most_words: int) -> tuple[Tensor, Tensor] | None:
        """Rows and columns of the true entries [R, C]; None with more than `most_words` of them.

        Few words of eight entries have a true one, and an eighth as many are looked through.
        """
        used, wide = mask.numel(), mask.shape[1]
        words = mask.as_strided((-(-used // WORD) * WORD,), (1,))
        word = words.view(torch.int64).nonzero()[:, 0]
        if len(word) > most_words:
            return None
        inside = words.view(-1, WORD)[word].nonzero()
        entry = word[inside[:, 0]] * WORD + inside[:, 1]
        return entry // wide, entry % wide

    def _double(self, image: Tensor, text: Tensor) -> Tensor:
        """Float64 scores [n] of pairs, by their places."""
        scores = torch.empty(len(image), dtype=torch.float64, device=image.device)
        for part in map(_slice, runs(range(len(image)), self.rows)):
            scores[part] = (self.images.double(image[part]) * self.texts.double(text[part])).sum(1)
        return scores


def rows_of(tile: Tile, width: int) -> int:
    """How many rows of features are as large as a tile."""
    return max(1, tile.pairs // max(width, 1))


def runs(places: range, most: int) -> Iterator[range]:
    """Places in as few equal runs of at most `most` as there can be."""
    count = -(-len(places) // most)
    for index in range(count):
        yield places[len(places) * index // count : len(places) * (index + 1) // count]


def _slice(places: range) -> slice:
    return slice(places.start, places.stop)


def _best_first(right: Tensor, owner: Tensor, images: int, depth: int) -> Tensor:
    """Scores [I, M] of each image's right texts, the best ones first, as far as `depth`.

    Infinite where an image has no such place.
    """
    count = torch.bincount(owner, minlength=images)
    most = min(depth, int(count.max())) if len(owner) else 1
    order = torch.argsort(right, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    image = owner[order]
    place = torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[image]
    best = torch.full((images, most), torch.inf, dtype=torch.float64, device=right.device)
    kept = place < most
    best[image[kept], place[kept]] = right[order[kept]]
    return best


@contextmanager
def _single_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 in float32: in neither TF32 nor bf16, whatever the process has set."""
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", 0)]
    by_backend = all(hasattr(backend, "fp32_precision") for backend in backends)
    before: list[str]
    if by_backend:
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
    else:  # before PyTorch 2.9
        before = [torch.get_float32_matmul_precision()]
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        if by_backend:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value
        else:
            torch.set_float32_matmul_precision(before[0])
