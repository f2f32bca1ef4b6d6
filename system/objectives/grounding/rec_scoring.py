"""The boxes that a grounder finds for a split's expressions, the same for any number of workers.

Expressions go through the grounder in blocks of one fixed size, the last one filled up, each block
on one worker: neither the order of the work nor who does it changes what is found. Images of unlike
sizes are padded to the largest of their block, which is the same in every run.

Legend: n expressions, E block size, K boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import accumulate

import torch
from torch import Tensor

from system.data.shards.image_batches import image_batches
from system.data.shards.padding import PaddedImages
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.encoding import filled_images, in_order
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup
from system.grounders.entries import Entries, Reach
from system.grounders.grounder import Grounder, GroundingBatch, KeptOutputs
from system.objectives.grounding.chosen_expressions import ChosenExpressions, expression_tokens
from system.objectives.grounding.kept_towers import KeptSplit, KeptTowers
from system.results.rec import best_hits
from system.results.rec_recalls import OVERLAPS
from system.storage.feature_store import FeatureStore

ZERO_SHOT_FOLDER = "rec_zero_shot"  # of the data path: what frozen grounders found, for all runs


@dataclass(frozen=True)
class Found:
    """Ranks and boxes found for n expressions."""

    ranks: Tensor  # (n, columns) of the first hit by each of OVERLAPS, from 0; -1: none
    best: Tensor  # (n, 4) the box scored highest; NaN where none was found

    def to_tensors(self) -> dict[str, Tensor]:
        """As the feature store keeps it."""
        return {"ranks": self.ranks, "best": self.best}


#: What enters for chosen expressions, by their places, with their images, tokens and latents.
EntriesOf = Callable[[Sequence[int], GroundingBatch, Tensor | None], Entries]


@dataclass(frozen=True)
class RecScorer:
    """Runs a frozen grounder, with or without a method, over expressions."""

    grounder: Grounder
    group: WorkerGroup
    block: int
    threads: int
    kept: KeptTowers | None = None

    def blocks(self, count: int) -> list[range]:
        """How so many expressions are cut: what is found for one depends on its block alone."""
        return [range(at, min(at + self.block, count)) for at in range(0, count, self.block)]

    def score(
        self,
        chosen: ChosenExpressions,
        show: Show,
        *,
        phase: str,
        entries: EntriesOf | None = None,
        latents: SplitLatents | None = None,
        epoch: int = 0,
        blocks: Sequence[range] | None = None,
        reach: Reach = Reach(),  # noqa: B008 - frozen
    ) -> Found:
        """The ranks of all chosen expressions, in their order, or of those in some of `blocks`.

        On every rank, and every rank has to call this. `latents` are those of the split for a
        method that needs them, at `epoch`. `reach` is what the entries leave as it is.
        """
        blocks = self.blocks(len(chosen)) if blocks is None else blocks
        mine = blocks[self.group.rank :: self.group.size]
        count = sum(map(len, blocks))
        starts = [0, *accumulate(map(len, blocks))]
        ranks, best = [torch.zeros(0, len(OVERLAPS), dtype=torch.long)], [torch.zeros(0, 4)]
        split = None if self.kept is None else self.kept.of(chosen, reach)
        with closing(self._images(chosen, mine, split)) as images:
            for block, pixels in zip(mine, images, strict=True):
                part = self._block(chosen, block, pixels, entries, latents, epoch, split)
                ranks.append(part.ranks)
                best.append(part.best)
                show(phase, min(len(ranks) * self.group.size * self.block, count), count, "")
        numbers = range(self.group.rank, len(blocks), self.group.size)
        order = [i for n in numbers for i in range(starts[n], starts[n + 1])]
        return Found(
            in_order(self.group, torch.cat(ranks), order),
            in_order(self.group, torch.cat(best), order),
        )

    def _images(
        self, chosen: ChosenExpressions, blocks: Sequence[range], split: KeptSplit | None
    ) -> Generator[PaddedImages, None, None]:
        """The images of each block, which are not read where their outputs are kept."""
        if self.kept is not None and split is not None and split.images is not None:
            return (blank for blank in [self.kept.blank(len(block)) for block in blocks])
        return image_batches(
            [chosen.handle],
            [[(0, chosen.expressions[i].row) for i in block] for block in blocks],
            transform=self.grounder.image_transform(),
            threads=self.threads,
            multiple=self.grounder.side_multiple,
        )

    def frozen(self, chosen: ChosenExpressions, store: FeatureStore, show: Show) -> Found:
        """Boxes that the frozen grounder finds, or found before in any run; all ranks call this."""
        grounder, handle = self.grounder, chosen.handle
        if not len(chosen):
            return Found(torch.zeros(0, len(OVERLAPS), dtype=torch.long), torch.zeros(0, 4))
        spanned = grounder.spans_count and any(e.spans for e in chosen.expressions)
        key = FeatureStore.key(
            grounder=grounder.fingerprint,
            transform=str(grounder.image_transform()),  # images may come in another size
            selection=asdict(grounder.selection),
            spans_count=grounder.spans_count,
            # What was kept before is of spans that name all words where they cover none.
            **({"spans": "what they cover"} if spanned else {}),
            ranks=[list(overlap) for overlap in OVERLAPS],
            shards=[shard.sha256 for shard in handle.shards],
            samples=list(chosen.samples),
            device=self.group.device.type,
            block=self.block,
            precision=grounder.computation.precision_on(self.group.device),
            compiled=grounder.computation.compile,
            # Rounding; a split beyond the limit is not kept.
            **({} if self.kept is None else {"kept": self.kept.folder.limit}),
        )
        stored = self.group.broadcast(store.find(key) if self.group.leads else None)
        if stored is not None:
            return Found(**stored)
        phase, reach = f"zero-shot {handle.task}, {handle.split}", Entries().reach
        found = self.score(chosen, show, phase=phase, reach=reach)
        if self.group.leads:
            store.put(key, found.to_tensors())
        return found

    @torch.no_grad()
    def _block(
        self,
        chosen: ChosenExpressions,
        block: range,
        images: PaddedImages,
        entries: EntriesOf | None,
        latents: SplitLatents | None,
        epoch: int,
        split: KeptSplit | None,
    ) -> Found:
        rows = [*block, *[block[-1]] * (self.block - len(block))]
        device = self.group.device
        tokens = expression_tokens(self.grounder, [chosen.expressions[i] for i in rows]).to(device)
        path = None
        if latents is not None:
            path = latents.take([chosen.samples[i] for i in rows], epoch).to(device)
        pixels, sizes = filled_images(images, self.block)
        kept = KeptOutputs()
        if self.kept is not None and split is not None:
            kept = self.kept.outputs([(split, i) for i in rows])
        batch = GroundingBatch(pixels.to(device), tokens, sizes=sizes, kept=kept)
        entering = Entries() if entries is None else entries(rows, batch, path)
        scored = self.grounder.ground(batch, entering)
        scored = scored[: len(block)]
        boxes, scores = [s.boxes.cpu() for s in scored], [s.scores.cpu() for s in scored]
        targets = [torch.tensor(chosen.expressions[i].boxes) for i in block]
        ranks = [best_hits(boxes, scores, targets, *overlap) for overlap in OVERLAPS]
        nothing = torch.full((1, 4), float("nan"))
        best = [torch.cat([found, nothing])[:1].float() for found in boxes]
        return Found(torch.stack(ranks, dim=1), torch.cat(best))
