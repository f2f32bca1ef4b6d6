"""The control of stage 2: a regressor of mask latents, trained and judged as the generator is."""

from __future__ import annotations

from typing_extensions import override

from system.diff_prompt.mask_regressor.regressed_latents import RegressedLatents
from system.diff_prompt.mask_regressor.regression import MaskRegressorTraining, Regressor
from system.diff_prompt.prompt_generator.generator_files import load_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.sampled_masks import Draws
from system.diff_prompt.prompt_generator.stage import PromptGeneratorStage
from system.diff_prompt.prompt_latents import PromptLatents
from system.engine.model_stage import ModelExperiment, Show
from system.engine.worker_group import WorkerGroup
from system.methods.base import LatentNeeds


class MaskRegressorStage(PromptGeneratorStage):
    """What a run of `stage.name=mask_regressor` does; its settings are the generator's."""

    training = MaskRegressorTraining

    @override
    def check_needs(self, experiment: ModelExperiment, needs: LatentNeeds) -> None:
        GeneratorPlan.of(experiment)

    @override
    def latents(
        self, experiment: ModelExperiment, needs: LatentNeeds, group: WorkerGroup, show: Show
    ) -> PromptLatents:
        return RegressedLatents(GeneratorPlan.of(experiment), needs, group, show)

    @override
    def draws(self, plan: GeneratorPlan, group: WorkerGroup) -> Draws:
        network, _ = load_generator(plan.folder)
        return Regressor(network.to(group.device).requires_grad_(False), plan.seed, group.device)


STAGE = MaskRegressorStage()
