"""Stage 2 of Diff-Prompt: the generator of mask latents, judged by the masks that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from system.config.parse import parse_dataclass
from system.data.shards.split_objects import LeftOut, ReferredExpression, mask_pixels, subsample
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.stage import left_out_text
from system.diff_prompt.prompt_generator.generator_data import GeneratorData
from system.diff_prompt.prompt_generator.generator_files import (
    HEADER,
    GeneratorHeader,
    load_generator,
    save_generator,
)
from system.diff_prompt.prompt_generator.generator_plan import KIND, GeneratorPlan
from system.diff_prompt.prompt_generator.generator_training import (
    GeneratorSamples,
    PromptGeneratorTraining,
)
from system.diff_prompt.prompt_generator.latent_store import LatentStore
from system.diff_prompt.prompt_generator.sampled_masks import (
    SampledIous,
    Sampler,
    best_mean_mask,
    sampled_ious,
)
from system.diff_prompt.prompt_latents import PromptLatents
from system.engine.epochs import EpochLoop, trained
from system.engine.model_stage import (
    ModelExperiment,
    Show,
    Tell,
    show_nothing,
    started,
    tell_model,
    worker_of,
)
from system.engine.provenance import code_provenance, data_provenance
from system.engine.worker_group import WorkerGroup
from system.engine.worker_log import RankLog
from system.errors import ConfigError
from system.methods.base import LatentNeeds
from system.report.metrics_view import MetricsView
from system.report.pages.model_pages import generator_page
from system.report.pages.origin_rows import provenance
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.run_directory import METRICS, MODEL_LOG, REPORT, RunDirectory

SHOWN = 12  # expressions on the page
SHOWN_STEPS = 6  # of the denoising path


@dataclass(frozen=True)
class GeneratorOutcome:
    """Metrics of a generator on held-out expressions."""

    digest: str
    benchmark: str
    benchmark_fingerprint: str
    seed: int
    held_out: str
    held_out_expressions: int
    sampling_steps: int
    guidance: float
    iou: dict[str, float]  # sampled, random_caption, mean_mask, reconstruction
    trainable_parameters: int
    shown: tuple[str, ...]  # expressions of the masks along the denoising path
    left_out: dict[str, int] = field(default_factory=dict)  # expressions without area, by split


class PromptGeneratorStage:
    """What a run of `stage=prompt_generator` does, and the latents that its models make."""

    experiment = ModelExperiment
    metrics = ("iou.sampled",)
    logged = ("iou", "trainable_parameters")

    def masks(self, experiment: ModelExperiment) -> MaskDecoder:
        """The decoder of what the experiment's model makes; neither need be trained yet."""
        return GeneratorPlan.of(experiment).vae.decoder

    def check_needs(self, experiment: ModelExperiment, needs: LatentNeeds) -> None:
        """See `LatentStage.check_needs`; the generator need not be trained yet."""
        settings = GeneratorPlan.of(experiment).settings
        if settings.schedule.steps % needs.steps:
            raise ConfigError(
                f"method.steps={needs.steps} must divide the generator's steps of training, "
                f"method.generator.schedule.steps={settings.schedule.steps}"
            )
        if needs.guidance != 1.0 and settings.condition_dropout == 0:
            raise ConfigError(
                f"method.guidance={needs.guidance} needs a generator trained with "
                "method.generator.condition_dropout above 0"
            )

    def latents(
        self, experiment: ModelExperiment, needs: LatentNeeds, group: WorkerGroup, show: Show
    ) -> PromptLatents:
        """The latents that a method needs, from the experiment's trained model."""
        return LatentStore(GeneratorPlan.of(experiment), needs, group, show)

    def place(self, experiment: ModelExperiment) -> Folder:
        """Where the finished model lies."""
        return GeneratorPlan.of(experiment).folder

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        """The Mask-VAE in whose latent space it works."""
        return (GeneratorPlan.of(experiment).vae.experiment,)

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the model is there and was judged so; checks settings and data first."""
        plan = GeneratorPlan.of(experiment)
        if plan.folder.exists(HEADER) and plan.folder.exists(_outcome(plan)):
            return True
        plan.check_data()
        return False

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`."""
        experiment, show = started(config)
        plan = GeneratorPlan.of(experiment)
        with worker_of(experiment) as (group, log):
            _train(plan, group, log, show)

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write metrics and page into the run directory and report the main metrics."""
        plan = GeneratorPlan.of(experiment)
        _, header = load_generator(plan.folder, schedule=plan.settings.schedule)
        outcome = parse_dataclass(
            GeneratorOutcome,
            plan.folder.read_json(_outcome(plan)),
            plan.folder.file_uri(_outcome(plan)),
        )
        shown = FeatureStore(plan.folder).find(_shown(plan))
        folder = RunDirectory.of(experiment).folder
        values = _main_values(outcome, header)
        generator = asdict(header)
        trained_on = {
            "train_expressions": generator.pop("train_expressions"),
            MODEL_LOG: generator.pop("log"),
        }
        origin = {"benchmark": data_provenance(plan.manifest), **code_provenance()}
        head = {"run": experiment.run_name, "stage": KIND, **origin}
        folder.write_json(
            METRICS, {**head, **asdict(outcome), **trained_on, "generator": generator}
        )
        paths = None if shown is None else shown["paths"]
        on_page = values | dict(provenance(MetricsView(head)))
        page = generator_page(experiment.run_name, on_page, outcome.iou, outcome.shown, paths)
        folder.write(REPORT, page.encode())
        tell_model(tell, values, plan.folder, folder)


STAGE = PromptGeneratorStage()


def _train(plan: GeneratorPlan, group: WorkerGroup, log: RankLog, show: Show) -> None:
    settings, experiment = plan.settings, plan.experiment
    watched: Show = show if group.leads else show_nothing
    vae = plan.vae.decoder
    data = GeneratorData(plan, vae, group, watched)
    # a model that was judged in another way is not trained again
    if not group.broadcast(plan.folder.exists(HEADER) if group.leads else None):
        samples, _ = data.samples("train")
        training = PromptGeneratorTraining(
            settings, plan.network, samples, group, seed=plan.seed, digest=plan.digest, show=show
        )
        rows = EpochLoop(training, RunDirectory.of(experiment).folder, log).run()
        if group.leads:
            _save(plan, training, rows)
        group.broadcast(None)  # the others read what the leader wrote
    network, _ = load_generator(plan.folder, schedule=settings.schedule)
    trainable = sum(p.numel() for p in trained(network).values())
    sampler = Sampler(
        network.to(group.device).requires_grad_(False),
        settings.schedule,
        settings.sampling_steps,
        settings.guidance,
        plan.seed,
        group.device,
    )
    watched("sampling held-out masks", 0, 1, "")
    held_out = data.samples(settings.held_out)
    left_out = {split: LeftOut() for split in ("train", settings.held_out)}
    train = plan.expressions("train", left_out["train"])
    train_masks = [entry.mask for task in train.values() for entry in task]
    plan.expressions(settings.held_out, left_out[settings.held_out])
    for expressions in left_out.values():
        if expressions.count:
            log.add(f"expressions: {expressions}")
    ious, chosen = _judge(plan, sampler, vae, held_out, train_masks, group)
    watched("sampling held-out masks", 1, 1, f"IoU {float(ious.sampled.mean()):.3f}")
    if not group.leads:
        return
    shown = chosen[:: max(1, len(chosen) // SHOWN)][:SHOWN]
    FeatureStore(plan.folder).put(_shown(plan), {"paths": _paths(sampler, vae, held_out, shown)})
    outcome = GeneratorOutcome(
        digest=plan.digest,
        benchmark=experiment.benchmark.name,
        benchmark_fingerprint=plan.manifest.fingerprint,
        seed=plan.seed,
        held_out=settings.held_out,
        held_out_expressions=len(chosen),
        sampling_steps=settings.sampling_steps,
        guidance=settings.guidance,
        iou=ious.means(),
        trainable_parameters=trainable,
        shown=tuple(held_out[1][sample].text for sample in shown),
        left_out={split: expressions.count for split, expressions in left_out.items()},
    )
    plan.folder.write_json(_outcome(plan), asdict(outcome))


def _save(
    plan: GeneratorPlan, training: PromptGeneratorTraining, rows: Sequence[dict[str, Any]]
) -> None:
    settings = plan.settings
    header = GeneratorHeader(
        network=plan.network,
        schedule=settings.schedule,
        backbone=settings.encoder.name,
        backbone_fingerprint=plan.encoder.fingerprint,
        mask_vae=plan.vae.digest,
        condition_dropout=settings.condition_dropout,
        train_expressions=len(training.samples),
        log=tuple(rows),
    )
    save_generator(plan.folder, training.averaged(), header)


def _outcome(plan: GeneratorPlan) -> str:
    return f"outcome-{plan.judged}.json"


def _shown(plan: GeneratorPlan) -> str:
    return f"shown-{plan.judged}"


def _judge(
    plan: GeneratorPlan,
    sampler: Sampler,
    vae: MaskDecoder,
    held_out: tuple[GeneratorSamples, list[ReferredExpression]],
    train_masks: list[Any],
    group: WorkerGroup,
) -> tuple[SampledIous, list[int]]:
    """IoUs of the evaluated held-out expressions, and which they are."""
    samples, expressions = held_out
    chosen = list(subsample(len(samples), plan.settings.evaluated))
    _, image, text = samples.take(chosen)
    average = best_mean_mask(train_masks, vae.image_size)
    masks = [expressions[sample].mask for sample in chosen]
    return sampled_ious(sampler, vae, (image, text), masks, average, group), chosen


def _paths(
    sampler: Sampler,
    vae: MaskDecoder,
    held_out: tuple[GeneratorSamples, list[ReferredExpression]],
    shown: list[int],
) -> Tensor:
    """The true mask, then masks along the denoising path: (shown, 1 + steps, H, H)."""
    samples, expressions = held_out
    _, image, text = samples.take(shown)
    path = sampler.path(image, text, shown)  # [n, K, C, h, w]
    steps = torch.linspace(0, path.shape[1] - 1, min(SHOWN_STEPS, path.shape[1])).round().long()
    latents = path[:, steps].to(sampler.device)
    decoded = vae(latents.flatten(0, 1))  # [n K', 1, H, H]
    masks = decoded.reshape(len(shown), len(steps), *decoded.shape[2:])
    true = torch.cat([mask_pixels(expressions[i].mask, vae.image_size) for i in shown])
    return torch.cat([true[:, None], masks.cpu()], dim=1)


def _main_values(outcome: GeneratorOutcome, header: GeneratorHeader) -> dict[str, str]:
    sizes = header.network
    return {
        "IoU of sampled masks": f"{outcome.iou['sampled']:.3f} on {outcome.held_out_expressions} "
        f"expressions of the {outcome.held_out} split",
        "IoU with another sample's expression": f"{outcome.iou['random_caption']:.3f}",
        "IoU of the best fixed mask": f"{outcome.iou['mean_mask']:.3f}",
        "IoU of the Mask-VAE alone": f"{outcome.iou['reconstruction']:.3f}",
        "latent": f"{sizes.latent_channels} x {sizes.latent_size} x {sizes.latent_size}",
        "schedule": f"{header.schedule.name}, {header.schedule.steps} steps, "
        f"{outcome.sampling_steps} in sampling",
        "trainable parameters": f"{outcome.trainable_parameters:,}",
        "expressions for training": f"{header.train_expressions:,}"
        + left_out_text(outcome.left_out),
        "benchmark": outcome.benchmark,
        "seed": str(outcome.seed),
        "epochs": str(len(header.log)),
    }
