"""Latents that the mask regressor says, kept as the generator's are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from system.diff_prompt.mask_regressor.regression import Regressor
from system.diff_prompt.prompt_generator.generator_files import load_generator
from system.diff_prompt.prompt_generator.latent_store import LatentStore
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.sampled_masks import Draws


class RegressedLatents(LatentStore):
    """One latent of a sample for all prompted layers; no step is run, and nothing drawn."""

    @override
    def _loaded(self) -> MaskDiT:
        network, _ = load_generator(self.plan.folder)
        return network

    @override
    def draws(self, seed: Sequence[int]) -> Draws:
        return Regressor(self._network, 0, self.group.device)

    @property
    @override
    def decided_by(self) -> dict[str, Any]:
        return {"what": "regressed latents"}
