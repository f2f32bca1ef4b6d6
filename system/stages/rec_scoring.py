"""What a grounder finds for a split's expressions, spread over the workers, alike for any number.

Expressions go through the grounder in blocks of one fixed size, the last one filled up, each block
on one worker: neither the order of the work nor who does it changes what is found.

Legend: n expressions, E block size, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from system.backbones.grounder import Entries, Grounder, GroundingBatch
from system.data.expression_images import image_batches
from system.data.expressions import ReferredExpression
from system.data.manifest import SplitGrant
from system.evaluation.rec import best_hits
from system.evaluation.rec_figures import OVERLAPS
from system.prompts.grounding_method import GroundingMethod
from system.stages.model_stage import Show
from system.stages.prompt_latents import SplitLatents
from system.stages.worker_group import WorkerGroup


@dataclass(frozen=True)
class ChosenExpressions:
    """Expressions of one split; `samples` are their places in `read_expressions`."""

    grant: SplitGrant
    samples: Sequence[int]
    expressions: Sequence[ReferredExpression]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Found:
    """What was found for n expressions."""

    ranks: Tensor  # (n, 2) of the first hit by IoU and by GIoU, from 0; -1: none
    best: Tensor  # (n, 4) the box scored highest; NaN where none was found

    def to_tensors(self) -> dict[str, Tensor]:
        """As the feature store keeps it."""
        return {"ranks": self.ranks, "best": self.best}


@dataclass(frozen=True)
class RecScorer:
    """Runs a frozen grounder, with or without a method, over expressions."""

    grounder: Grounder
    group: WorkerGroup
    block: int
    threads: int

    def score(
        self,
        chosen: ChosenExpressions,
        show: Show,
        *,
        phase: str,
        method: GroundingMethod | None = None,
        latents: SplitLatents | None = None,
        epoch: int = 0,
    ) -> Found:
        """The ranks of all chosen expressions, in their order, on every rank.

        `latents` are those of the split for a method that needs them, at `epoch`. Every rank has to
        call this.
        """
        count = len(chosen)
        starts = range(self.group.rank * self.block, count, self.group.size * self.block)
        blocks = [range(start, min(start + self.block, count)) for start in starts]
        places = [[(0, chosen.expressions[i].row) for i in block] for block in blocks]
        ranks, best = [torch.zeros(0, 2, dtype=torch.long)], [torch.zeros(0, 4)]
        images = image_batches(
            [chosen.grant],
            places,
            transform=self.grounder.image_transform(),
            threads=self.threads,
        )
        with closing(images):
            for block, pixels in zip(blocks, images, strict=True):
                part = self._block(chosen, block, pixels, method, latents, epoch)
                ranks.append(part.ranks)
                best.append(part.best)
                done = min(block.stop + (self.group.size - 1) * self.block, count)
                show(phase, done, count, "")
        order = self.group.gather_rows(
            torch.tensor([i for block in blocks for i in block], dtype=torch.long)
        )
        found = Found(torch.zeros(count, 2, dtype=torch.long), torch.zeros(count, 4))
        found.ranks[order] = self.group.gather_rows(torch.cat(ranks))
        found.best[order] = self.group.gather_rows(torch.cat(best))
        return found

    @torch.no_grad()
    def _block(
        self,
        chosen: ChosenExpressions,
        block: range,
        images: Tensor,
        method: GroundingMethod | None,
        latents: SplitLatents | None,
        epoch: int,
    ) -> Found:
        rows = [*block, *[block[-1]] * (self.block - len(block))]
        device = self.group.device
        tokens = self.grounder.tokenize([chosen.expressions[i].text for i in rows]).to(device)
        filled = torch.cat([images, images[-1:].expand(len(rows) - len(block), -1, -1, -1)])
        path = None
        if latents is not None:
            path = latents.take([chosen.samples[i] for i in rows], epoch).to(device)
        entries = Entries() if method is None else method.entries(self.grounder, tokens, path)
        scored = self.grounder.ground(GroundingBatch(filled.to(device), tokens), entries)
        scored = scored[: len(block)]
        boxes, scores = [s.boxes.cpu() for s in scored], [s.scores.cpu() for s in scored]
        targets = torch.tensor([chosen.expressions[i].box for i in block])
        ranks = [best_hits(boxes, scores, targets, overlap) for overlap in OVERLAPS]
        nothing = torch.full((1, 4), float("nan"))
        best = [torch.cat([found, nothing])[:1].float() for found in boxes]
        return Found(torch.stack(ranks, dim=1), torch.cat(best))
