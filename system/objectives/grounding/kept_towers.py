"""What a frozen grounder makes of a split's images and expressions, computed once and kept.

A method that leaves a tower as it is needs that tower once per sample, not once per step: its
outputs are kept on the node's disk, for all epochs, evaluations and runs. Of a method that enters
the text alone the whole image's half is kept, with the head, since image and text meet behind it.

They are computed in blocks of one fixed size, so that a sample's do not depend on which batch it is
in. Computed at each step they do, by rounding: two parts in a million on a CPU of several threads.

Legend: B batch, E block size, n expressions, T tokens, D width of the text tower.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from system.data.shards.image_batches import image_batches
from system.data.shards.padding import PaddedImages
from system.engine.encoding import filled_images
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup
from system.grounders.entries import ImagePlace, Reach
from system.grounders.grounder import KeepingGrounder, KeptOutputs
from system.objectives.grounding.chosen_expressions import ChosenExpressions
from system.storage.feature_store import FeatureStore
from system.storage.kept_rows import KeptFolder, KeptRows, parts_of

KEPT_FOLDER = "kept"  # of the data path
OPENED = 64  # splits whose files stay open, those used last

#: Computes the rows of some block: by row its tensors.
MakeBlock = Callable[[Sequence[int]], dict[int, list[Tensor]]]


@dataclass(frozen=True)
class KeptSplit:
    """The outputs of one split's chosen expressions, as far as they are kept."""

    place: ImagePlace | None = None
    images: KeptRows | None = None
    image_rows: Sequence[int] = ()  # of each expression, in `images`
    texts: KeptRows | None = None
    text_rows: Sequence[range] = ()  # the tokens of each expression, in `texts`

    def image(self, expression: int) -> list[Tensor]:
        """The features (P,) of an expression's image, and its levels (P, H, W) at `place`."""
        assert self.images is not None
        row = self.image_rows[expression]
        return [part[0] for part in self.images.take(slice(row, row + 1))]

    def words(self, expression: int) -> Tensor:
        """The tokens (T, D) of an expression."""
        assert self.texts is not None
        tokens = self.text_rows[expression]
        return self.texts.take(slice(tokens.start, tokens.stop))[0]


@dataclass(frozen=True)
class KeptTowers:
    """Finds a split's outputs, or computes them with the frozen grounder."""

    grounder: KeepingGrounder
    group: WorkerGroup
    block: int
    threads: int
    folder: KeptFolder
    show: Show
    _splits: OrderedDict[tuple[object, ...], KeptSplit] = field(default_factory=OrderedDict)

    def of(self, chosen: ChosenExpressions, reach: Reach) -> KeptSplit:
        """What `reach` leaves as it is of a split's expressions; every rank has to call this.

        Nothing is kept of images of many sizes, whose outputs depend on their batch by more than
        rounding, and of a split beyond the folder's limit.
        """
        if not len(chosen):
            return KeptSplit()
        place = reach.image if self.grounder.shape.level_sides else None
        key = (chosen.handle, tuple(chosen.samples), place, reach.text)
        if key not in self._splits:
            images = None if place is None else self._images(chosen, place)
            texts, spans = (None, []) if reach.text else self._texts(chosen)
            numbers = {row: number for number, row in enumerate(_image_rows(chosen))}
            self._splits[key] = KeptSplit(
                None if images is None else place,
                images,
                [numbers[expression.row] for expression in chosen.expressions],
                texts,
                spans,
            )
        self._splits.move_to_end(key)
        while len(self._splits) > OPENED:
            self._splits.popitem(last=False)
        return self._splits[key]

    def of_all(self, every: Sequence[ChosenExpressions], reach: Reach) -> list[KeptSplit]:
        """The same of several splits whose expressions share batches: of all of them or of none."""
        found = [self.of(chosen, reach) for chosen in every]
        filled = [split for chosen, split in zip(every, found, strict=True) if len(chosen)]
        if any(split.images is None for split in filled):
            found = [replace(split, place=None, images=None) for split in found]
        if any(split.texts is None for split in filled):
            found = [replace(split, texts=None) for split in found]
        return found

    def outputs(self, samples: Sequence[tuple[KeptSplit, int]]) -> KeptOutputs:
        """The outputs of a batch of expressions of one split, or of several by `of_all`.

        Expressions are padded to the longest, as the grounder pads their tokens.
        """
        first, _ = samples[0]
        features, image, words = None, [], None
        if first.images is not None:
            parts = zip(*(split.image(at) for split, at in samples), strict=True)
            features, *image = (torch.stack(part).to(self.group.device) for part in parts)
        if first.texts is not None:
            words = pad_sequence([split.words(at) for split, at in samples], batch_first=True)
            words = words.to(self.group.device)
        return KeptOutputs(first.place, image, features, words)

    def blank(self, count: int) -> PaddedImages:
        """Images in the place of `count` ones whose outputs are kept: without pixels, of no memory.

        Whoever reads them all the same gets what is no number.
        """
        own, multiple = self.grounder.shape.image_size, self.grounder.side_multiple
        side = -(-own // multiple) * multiple
        nothing = torch.full((), torch.nan, device=self.group.device)
        pixels = nothing.expand(count, 3, side, side)
        return PaddedImages(pixels, None if side == own else torch.full((count, 2), own))

    def _images(self, chosen: ChosenExpressions, place: ImagePlace) -> KeptRows | None:
        handle, rows = chosen.handle, _image_rows(chosen)
        transform = self.grounder.image_transform()

        def make(block: Sequence[int]) -> dict[int, list[Tensor]]:
            images = image_batches(
                [handle],
                [[(0, rows[number]) for number in block]],
                transform=transform,
                threads=self.threads,
                multiple=self.grounder.side_multiple,
            )
            with closing(images):
                pixels, sizes = filled_images(next(images), self.block)
            levels, features = self.grounder.image_outputs(
                pixels.to(self.group.device), sizes, place
            )
            parts = [features.float().cpu(), *(level.cpu() for level in levels)]
            return {number: [part[at] for part in parts] for at, number in enumerate(block)}

        key = self._key(
            what=f"image {place}",
            transform=str(transform),  # images may come in another size
            shards=[shard.sha256 for shard in handle.shards],
            without=sorted(handle.without),
            rows=rows,
        )
        phase = f"frozen image half, {handle.task}, {handle.split}"
        every = range(len(rows))
        return self._filled(key, [[number] for number in every], make, phase)

    def _texts(self, chosen: ChosenExpressions) -> tuple[KeptRows | None, list[range]]:
        texts, handle = [expression.text for expression in chosen.expressions], chosen.handle
        counts: list[int] = []
        for at in range(0, len(texts), self.block):
            counts += self.grounder.tokenize(texts[at : at + self.block]).mask.sum(dim=1).tolist()
        ends = list(accumulate(counts))
        spans = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]

        def make(block: Sequence[int]) -> dict[int, list[Tensor]]:
            own = [texts[number] for number in block]
            own += own[-1:] * (self.block - len(own))
            words = self.grounder.text_outputs(self.grounder.tokenize(own).to(self.group.device))
            return {
                token: [word]
                for number, read in zip(block, words.cpu(), strict=False)
                for token, word in zip(spans[number], read, strict=False)
            }

        key = self._key(what="text", texts=texts)
        found = self._filled(key, spans, make, f"frozen text tower, {handle.task}, {handle.split}")
        return found, spans

    def _filled(
        self, key: str, samples: Sequence[Sequence[int]], make: MakeBlock, phase: str
    ) -> KeptRows | None:
        """The file of that name with the rows of all samples; None if it would be too large.

        Each worker makes its share of the blocks; then, on a node of its own, what is missing.
        """
        count = sum(map(len, samples))
        blocks = [
            range(at, min(at + self.block, len(samples)))
            for at in range(0, len(samples), self.block)
        ]
        kept = self.folder.find(key, count)
        made: dict[int, list[Tensor]] = {}
        if kept is None:
            with torch.inference_mode():
                made = make(blocks[0])  # for the layout of a row
            parts = parts_of(next(iter(made.values())))
        # Every rank decides the same, whatever its node's disk holds.
        if not self.folder.fits(count, parts if kept is None else kept.parts):
            return None
        if kept is None:
            kept = self.folder.make(key, count, parts)
        for mine in (blocks[self.group.rank :: self.group.size], blocks):
            for done, block in enumerate(mine, start=1):
                rows = [row for sample in block for row in samples[sample]]
                missing = kept.missing(rows)
                if not missing:
                    continue
                if block != blocks[0] or not made:
                    with torch.inference_mode():
                        made = make(block)
                for row in missing:
                    kept.put(row, made[row])
                assert not kept.missing(missing), f"{kept.path}: what was written is not there"
                self.show(phase, done, len(mine), "")
            made = {}
            self.group.gather_rows(torch.zeros(1))  # until the others are as far
        return kept

    def _key(self, **depends_on: object) -> str:
        computation = self.grounder.computation
        return FeatureStore.key(
            grounder=self.grounder.fingerprint,
            # Rounding depends on the kernels, and these on all of this.
            device=self.group.device.type,
            threads=torch.get_num_threads(),
            block=self.block,
            precision=computation.precision_on(self.group.device),
            compiled=computation.compile,
            **depends_on,
        )


def _image_rows(chosen: ChosenExpressions) -> list[int]:
    return sorted({expression.row for expression in chosen.expressions})
