"""Latents of the prompt layers, made by the trained generator once and kept for all that follows.

Legend: B batch, L prompted layers, K denoising steps, C latent channels, h w latent height and
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.prompt_generator.conditions import Conditions
from system.diff_prompt.prompt_generator.generator_files import load_generator, require_same_latents
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.sampled_masks import Draws, Sampler
from system.diff_prompt.prompt_latents import PromptLatents, SplitLatents
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup, make_parts
from system.errors import AdapterMismatchError
from system.methods.base import LatentNeeds
from system.methods.parts import np_seed
from system.methods.prompts.diff_prompt import prompt_steps
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore, TensorParts

BLOCK = 64  # samples drawn at once


class LatentStore(PromptLatents):
    """Draws latents, or finds those that were drawn before; counts what it draws.

    A sample's noise depends on the seed, its split and its number alone, so its latents are the
    same in each epoch, run and trial with these settings, whatever the batches and workers.
    """

    def __init__(
        self, plan: GeneratorPlan, needs: LatentNeeds, group: WorkerGroup, show: Show
    ) -> None:
        """Load generator and encoder; every rank has to.

        Raises StorageError where the generator is not trained, AdapterMismatchError if it belongs
        to another Mask-VAE or schedule.
        """
        self.plan = plan
        self.needs = needs
        self.group = group
        self.show = show
        self.steps = self._steps_run = 0
        self.entries: tuple[int, ...] = (0,)
        self._network = self._loaded().to(group.device).requires_grad_(False)
        self._encoder = plan.condition_encoder(group, show)
        self._splits: dict[str, SplitLatents] = {}

    def _loaded(self) -> MaskDiT:
        plan, needs = self.plan, self.needs
        self.steps = needs.steps
        self.entries = prompt_steps(needs.layers, needs.steps, stride=needs.stride)
        network, header = load_generator(
            plan.folder, schedule=plan.settings.schedule, guidance=needs.guidance
        )
        require_same_latents(
            header.network, plan.vae.settings.vae.latent_shape, plan.vae.folder.uri
        )
        if header.mask_vae not in ("", plan.vae.digest):  # imported weights do not say it
            raise AdapterMismatchError(
                f"{plan.folder.uri} was trained on latents of the Mask-VAE {header.mask_vae}, not "
                f"on those of {plan.vae.digest}; take that Mask-VAE, or train the generator again"
            )
        return network

    def draws(self, seed: Sequence[int]) -> Draws:
        """What draws latents from noise under `seed`."""
        return Sampler(
            self._network,
            self.plan.settings.drawn_with,
            self.needs.steps,
            self.needs.guidance,
            np_seed(self.plan.experiment.seed, *seed),
            self.group.device,
        )

    @property
    def decided_by(self) -> dict[str, Any]:
        """What decides a sample's latents, beside the model, the split and the sample."""
        return {
            "what": "prompt latents",
            "seed": self.plan.experiment.seed,
            "entries": list(self.entries),
            "steps": self.needs.steps,
            "guidance": self.needs.guidance,
            "sampling_schedule": self.plan.settings.sampling_schedule,
        }

    @property
    @override
    def steps_run(self) -> int:
        return self._steps_run

    @override
    def of(self, handle: SplitHandle, samples: Sequence[int] | None = None) -> SplitLatents:
        identity = split_identity(handle)
        key = FeatureStore.key(split=identity, samples=None if samples is None else list(samples))
        if key not in self._splits:
            self._splits[key] = self._made(handle, identity, samples)
        return self._splits[key]

    def draw(self, conditions: Conditions, samples: Sequence[int], seed: Sequence[int]) -> Tensor:
        """Latents (B, L, C, h, w) of samples, from their noise under `seed`; L is 1 where all
        layers have the same.
        """
        draws = self.draws(seed)
        parts = []
        for start in range(0, len(samples), BLOCK):
            block = list(samples[start : start + BLOCK])
            path = draws.path(*conditions.take(block), block)  # [b, K, C, h, w]
            parts.append(path[:, list(self.entries)])
            self._steps_run += len(block) * self.steps
        return torch.cat(parts)

    def _made(
        self, handle: SplitHandle, identity: str, samples: Sequence[int] | None
    ) -> SplitLatents:
        expressions = list(read_expressions(handle))
        conditions = self._encoder.of(handle, expressions)
        branch = int(identity[:15], 16)
        if self.needs.fresh_noise:
            return _FreshLatents(self, conditions, branch)
        chosen = list(range(len(expressions)) if samples is None else samples)
        key = FeatureStore.key(
            samples=chosen,
            generator=self.plan.digest,
            encoder=self.plan.encoder.fingerprint,
            split=identity,
            device=self.group.device.type,
            **self.decided_by,
        )
        folder = DataDirectory.of(self.plan.experiment).store("latents").child(f"prompts-{key}")
        parts = TensorParts(folder, len(chosen))

        def make(rows: range) -> dict[str, Tensor]:
            return {"latent": self.draw(conditions, [chosen[row] for row in rows], [branch])}

        def show(done: int, total: int) -> None:
            self.show(f"prompt latents of {handle.task}, {handle.split}", done, total, "")

        make_parts(parts, self.group, make, show)
        rows = {sample: row for row, sample in enumerate(chosen)}
        return _StoredLatents(parts, rows, self.needs.layers)


@dataclass(frozen=True)
class _StoredLatents:
    parts: TensorParts
    row_of: dict[int, int]  # of each sample
    layers: int

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """The same in every epoch."""
        kept = self.parts.take([self.row_of[sample] for sample in samples])["latent"]
        return kept.expand(-1, self.layers, -1, -1, -1)


@dataclass(frozen=True)
class _FreshLatents:
    store: LatentStore
    conditions: Conditions
    branch: int

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """Drawn anew, from noise of the epoch."""
        return self.store.draw(self.conditions, samples, [self.branch, 1 + epoch])


def split_identity(handle: SplitHandle) -> str:
    """A split's name by its content: sample numbers count from its first row."""
    shards = [shard.sha256 for shard in handle.shards]
    return FeatureStore.key(task=handle.task, split=handle.split, shards=shards)
