"""Controls of Diff-Prompt's masks: what prompts gain if their latents come from elsewhere.

- `true`: the expression's own mask through the Mask-VAE's encoder, in training and evaluation: what
  a generator without fault would give. It knows the answer: an upper bound, and no result.
- `shuffled`: what the generator drew for another expression of the same split: prompts of the same
  kind that say nothing of the sample.
- `mean`: the one mask that fits all training masks best: prompts that are the same for all.
- `regressed`: one latent by regression from the same conditions (stage `mask_regressor`): prompts
  of the sample without diffusion.

In all but `shuffled` each prompted layer gets the same latent, as there is no denoising path.

Legend: B batch, L prompted layers, C latent channels, h w latent height and width, H mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from system.data.shards.manifest import SplitHandle
from system.data.shards.masks import mask_area
from system.data.shards.split_objects import LeftOut, read_expressions, with_masks
from system.diff_prompt.mask_vae.mask_latents import mask_latents
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.latent_store import split_identity
from system.diff_prompt.prompt_generator.sampled_masks import best_mean_mask
from system.diff_prompt.prompt_latents import PromptLatents, SplitLatents
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup
from system.errors import DataError
from system.methods.base import MaskSource
from system.storage.data_directory import DataDirectory

#: Of each source, as the outcome and the page of a run say it.
NOTES: dict[MaskSource, str] = {
    "generated": "drawn by the prompt generator",
    "true": "each expression's own mask, in evaluation too: an upper bound, not a result",
    "shuffled": "drawn by the prompt generator for another expression of the split: a control",
    "mean": "the one mask that fits all training masks best: a control",
    "regressed": "one latent by regression from the generator's conditions: a control",
}


class TrueLatents(PromptLatents):
    """Latents of the masks that expressions refer to; of one without area, of an empty mask."""

    steps_run = 0

    def __init__(self, plan: GeneratorPlan, layers: int, group: WorkerGroup, show: Show) -> None:
        self.plan = plan
        self.layers = layers
        self.group = group
        self.show = show
        self.decoder = plan.decoder
        self._splits: dict[str, SplitLatents] = {}

    @override
    def of(self, handle: SplitHandle, samples: Sequence[int] | None = None) -> SplitLatents:
        identity = split_identity(handle)  # of all samples: most share an object with others
        if identity not in self._splits:
            self._splits[identity] = self._made(handle)
        return self._splits[identity]

    def _made(self, handle: SplitHandle) -> SplitLatents:
        expressions = list(read_expressions(handle))
        seen = with_masks(handle, expressions, LeftOut())
        store = DataDirectory.of(self.plan.experiment).store("latents")
        made = mask_latents(handle, seen, self.decoder, self.group, store, self.show)
        empty = torch.full((1, 1, self.decoder.image_size, self.decoder.image_size), -1.0)
        pixels = self.decoder.config.ranged(empty).to(self.group.device)
        latents = torch.cat([made.latents, self.decoder.encode(pixels).cpu()])
        rows = torch.full((len(expressions),), len(made.latents))
        has_mask = torch.tensor([mask_area(entry.mask) > 0 for entry in expressions])
        rows[has_mask] = made.object_of
        return _SameInAllLayers(latents, rows, self.layers)


class MeanLatents(PromptLatents):
    """The latent of the fixed mask that fits the generator's training masks best."""

    steps_run = 0

    def __init__(self, plan: GeneratorPlan, layers: int, group: WorkerGroup) -> None:
        masks = [entry.mask for found in plan.expressions("train").values() for entry in found]
        decoder = plan.decoder
        mean = best_mean_mask(masks, decoder.config)[None].to(group.device)
        self.latent = decoder.encode(mean).cpu()  # [1, C, h, w]
        self.layers = layers

    @override
    def of(self, handle: SplitHandle, samples: Sequence[int] | None = None) -> SplitLatents:
        return _SameInAllLayers(self.latent, None, self.layers)


class ShuffledLatents(PromptLatents):
    """The latents of other samples: a fixed permutation of each split, without fixed points."""

    def __init__(self, latents: PromptLatents, seed: int) -> None:
        self.latents = latents
        self.seed = seed

    @property
    @override
    def steps_run(self) -> int:
        return self.latents.steps_run

    @override
    def of(self, handle: SplitHandle, samples: Sequence[int] | None = None) -> SplitLatents:
        count = sum(1 for _ in read_expressions(handle))
        require_two(handle, count)
        branch = int(split_identity(handle)[:15], 16)
        other = one_cycle(count, [self.seed, branch])
        wanted = None if samples is None else sorted({other[sample] for sample in samples})
        return _OfOthers(self.latents.of(handle, wanted), other)


@dataclass(frozen=True)
class _SameInAllLayers:
    latents: Tensor  # (objects, C, h, w)
    row_of: Tensor | None  # (samples,); None: the only one
    layers: int

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """Latents (B, L, C, h, w)."""
        chosen = torch.as_tensor(samples)
        rows = torch.zeros_like(chosen) if self.row_of is None else self.row_of[chosen]
        return self.latents[rows][:, None].expand(-1, self.layers, -1, -1, -1)


@dataclass(frozen=True)
class _OfOthers:
    latents: SplitLatents
    other: Sequence[int]  # of each sample the one whose latents it gets

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """Latents (B, L, C, h, w) of the other samples."""
        return self.latents.take([self.other[sample] for sample in samples], epoch)


def one_cycle(count: int, seed: Sequence[int]) -> list[int]:
    """A random permutation that is a single cycle, so that no place of two or more keeps its own.

    Source: S. Sattolo, "An algorithm to generate a random cyclic permutation", 1986.
    """
    draw = np.random.default_rng(list(seed))
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = int(draw.integers(place))
        order[place], order[other] = order[other], order[place]
    return order


def require_two(handle: SplitHandle, count: int) -> None:
    """Raises DataError where no other expression is there whose latents one could get."""
    if count < 2:
        raise DataError(
            f"method.mask_source=shuffled: task {handle.task!r} has {count} expression(s) in split "
            f"{handle.split!r}, and none to take another's mask from; leave the task out of "
            "benchmark.tasks"
        )
