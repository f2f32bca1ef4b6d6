"""The work of a model's training: the Mask-VAE, the prompt generator or its control."""

from collections.abc import Callable, Mapping

from system.data.shards.split_objects import ReferredExpression
from system.diff_prompt.mask_vae.mask_vae_training import LATENTS_SCALED_BY
from system.diff_prompt.mask_vae.stage import MaskVaePlan, MaskVaeStage
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.stage import SHOWN, PromptGeneratorStage
from system.engine.model_stage import ModelExperiment, stage_of
from system.errors import ConfigError
from system.planning.stream_work import (
    CONDITION_IMAGE,
    CONDITION_TEXT,
    DENOISER,
    TRAINING,
    shard_bytes,
)
from system.planning.work import Passes, Trained, Work, without_nothing

VAE, VAE_ENCODER, VAE_DECODER = "Mask-VAE", "Mask-VAE, encoder", "Mask-VAE, decoder"


def stage_work(experiment: ModelExperiment) -> Work:
    """The work of one stage's run, without that of the stages before it.

    Raises ConfigError or DataError as its run would, and for a stage that it does not know.
    """
    stage = stage_of(experiment)
    for kind, count in COUNTED.items():
        if isinstance(stage, kind):
            return count(experiment)
    raise ConfigError(f"stage.name={experiment.stage['name']}: nothing is known of its work yet")


def mask_vae_work(experiment: ModelExperiment) -> Work:
    """Epochs over the object masks, and what judges the result."""
    plan = MaskVaePlan.of(experiment)
    settings = plan.settings
    masks = sum(map(len, plan.masks("train").values()))
    held_out = sum(map(len, plan.masks(settings.held_out).values()))
    trained = Trained(
        "the Mask-VAE", settings.batch_size, masks // settings.batch_size, settings.epochs
    )
    scaled = min(LATENTS_SCALED_BY, masks)
    judging = f"judging on {settings.held_out}"
    passes = (
        Passes.exactly(TRAINING, VAE, "training", trained.samples),
        Passes.exactly(judging, VAE, "plain", held_out),
        Passes.exactly("scale of the latents", VAE_ENCODER, "plain", scaled),
    )
    return Work(experiment.run_name, (trained,), without_nothing(passes))


def generator_work(experiment: ModelExperiment) -> Work:
    """Latents and conditions of both splits, epochs over the expressions, masks that judge it."""
    plan = GeneratorPlan.of(experiment)
    settings = plan.settings
    splits = {split: plan.expressions(split) for split in ("train", settings.held_out)}
    counts = {split: sum(map(len, found.values())) for split, found in splits.items()}
    batch = settings.batch_size
    trained = Trained("the prompt generator", batch, counts["train"] // batch, settings.epochs)
    passes = [Passes.exactly(TRAINING, DENOISER, "training", trained.samples)]
    for split, found in splits.items():
        passes += _prepared(plan, split, found)
    judged = min(settings.evaluated, counts[settings.held_out])
    shown = len(range(judged)[:: max(1, judged // SHOWN)][:SHOWN])
    # Each for its own expression and for another one; the regressor says a latent at once.
    steps = 1 if settings.regresses else settings.sampling_steps
    asked = steps * (1 if settings.guidance == 1.0 else 2)
    judging = f"judging on {settings.held_out}"
    passes += [
        Passes.exactly(judging, DENOISER, "plain", asked * (2 * judged + shown)),
        Passes.exactly(judging, VAE_ENCODER, "plain", judged),
        Passes.exactly(judging, VAE_DECODER, "plain", 3 * judged),
    ]
    handles = [plan.manifest.task(task).handle("train") for task in plan.tasks]
    reads = (("train", shard_bytes(handles), 1.0),)
    return Work(experiment.run_name, (trained,), without_nothing(passes), reads)


def _prepared(
    plan: GeneratorPlan, split: str, found: Mapping[str, list[ReferredExpression]]
) -> list[Passes]:
    """What is computed once of a split, for all runs."""
    objects = images = texts = 0
    for task, expressions in found.items():
        objects += len({(entry.row, entry.instance) for entry in expressions})
        images += plan.manifest.task(task).handle(split).rows
        texts += len({entry.text for entry in expressions})
    phase = f"latents and conditions of {split}"
    return [
        Passes.exactly(phase, part, "plain", count, kept=True)
        for part, count in (
            (VAE_ENCODER, objects),
            (CONDITION_IMAGE, images),
            (CONDITION_TEXT, texts),
        )
    ]


COUNTED: Mapping[type, Callable[[ModelExperiment], Work]] = {
    MaskVaeStage: mask_vae_work,
    PromptGeneratorStage: generator_work,
}
