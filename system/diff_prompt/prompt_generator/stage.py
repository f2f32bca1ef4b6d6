"""Stage 2 of Diff-Prompt: the generator of mask latents, judged by the masks that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from system.config.parse import parse_dataclass
from system.data.shards.split_objects import LeftOut, ReferredExpression, subsample
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.mask_vae.stage import left_out_text
from system.diff_prompt.prompt_generator.generator_data import GeneratorData
from system.diff_prompt.prompt_generator.generator_files import (
    HEADER,
    GeneratorHeader,
    generator_header,
    load_generator,
    save_generator,
)
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_training import (
    GeneratorSamples,
    PromptGeneratorTraining,
)
from system.diff_prompt.prompt_generator.latent_store import LatentStore
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.sampled_masks import (
    Draws,
    SampledIous,
    Sampler,
    best_mean_mask,
    sampled_ious,
)
from system.diff_prompt.prompt_latents import PromptLatents
from system.engine.epochs import EpochLoop
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
from system.engine.training import trained
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
    sampling_schedule: str | None = None  # where it is not that of the training


class PromptGeneratorStage:
    """What a run of `stage=prompt_generator` does, and the latents that its models make."""

    experiment = ModelExperiment
    training: type[PromptGeneratorTraining] = PromptGeneratorTraining
    metrics = ("iou.sampled",)
    logged = ("iou", "trainable_parameters")

    def masks(self, experiment: ModelExperiment) -> MaskDecoder:
        """The decoder of what the experiment's model makes; neither need be trained yet."""
        return GeneratorPlan.of(experiment).decoder

    def draws(self, plan: GeneratorPlan, group: WorkerGroup) -> Draws:
        """The trained model, drawing as the settings say that it is judged."""
        settings = plan.settings
        network, _ = load_generator(
            plan.folder, schedule=settings.schedule, guidance=settings.guidance
        )
        return Sampler(
            network.to(group.device).requires_grad_(False),
            settings.drawn_with,
            settings.sampling_steps,
            settings.guidance,
            plan.seed,
            group.device,
        )

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
        """Where the finished model and its outcome lie; of a model that was given, the outcome."""
        return GeneratorPlan.of(experiment).judged_in

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        """The Mask-VAE in whose latent space it works, unless that was given."""
        vae = GeneratorPlan.of(experiment).vae
        return () if vae.given is not None else (vae.experiment,)

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the model is there and was judged so; checks settings and data first."""
        plan = GeneratorPlan.of(experiment)
        if plan.folder.exists(HEADER) and plan.judged_in.exists(_outcome(plan)):
            return True
        plan.check_data()
        return False

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`."""
        experiment, show = started(config)
        plan = GeneratorPlan.of(experiment)
        with worker_of(experiment) as (group, log):
            _train(self, plan, group, log, show)

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write metrics and page into the run directory and report the main metrics."""
        plan = GeneratorPlan.of(experiment)
        header = generator_header(plan.folder)
        outcome = parse_dataclass(
            GeneratorOutcome,
            plan.judged_in.read_json(_outcome(plan)),
            plan.judged_in.file_uri(_outcome(plan)),
        )
        shown = FeatureStore(plan.judged_in).find(_shown(plan))
        folder = RunDirectory.of(experiment).folder
        values = _main_values(outcome, header)
        generator = asdict(header)
        trained_on = {
            "train_expressions": generator.pop("train_expressions"),
            MODEL_LOG: generator.pop("log"),
        }
        origin = {"benchmark": data_provenance(plan.manifest), **code_provenance()}
        head = {"run": experiment.run_name, "stage": plan.settings.name, **origin}
        folder.write_json(
            METRICS, {**head, **asdict(outcome), **trained_on, "generator": generator}
        )
        paths = None if shown is None else shown["paths"]
        on_page = values | dict(provenance(MetricsView(head)))
        page = generator_page(experiment.run_name, on_page, outcome.iou, outcome.shown, paths)
        folder.write(REPORT, page.encode())
        tell_model(tell, values, plan.folder, folder)


STAGE = PromptGeneratorStage()


def _train(
    stage: PromptGeneratorStage,
    plan: GeneratorPlan,
    group: WorkerGroup,
    log: RankLog,
    show: Show,
) -> None:
    settings, experiment = plan.settings, plan.experiment
    watched: Show = show if group.leads else show_nothing
    vae = plan.decoder
    data = GeneratorData(plan, vae, group, watched)
    # a model that was judged in another way is not trained again
    if not group.broadcast(plan.folder.exists(HEADER) if group.leads else None):
        samples, _ = data.samples("train")
        training = stage.training(
            settings, plan.network, samples, group, seed=plan.seed, digest=plan.digest, show=show
        )
        rows = EpochLoop(training, RunDirectory.of(experiment).folder, log).run()
        if group.leads:
            _save(plan, training, rows)
        group.broadcast(None)  # the others read what the leader wrote
    sampler = stage.draws(plan, group)
    with torch.device("meta"):  # sizes alone
        trainable = sum(p.numel() for p in trained(MaskDiT(plan.network, seed=0)).values())
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
    FeatureStore(plan.judged_in).put(_shown(plan), {"paths": _paths(sampler, vae, held_out, shown)})
    outcome = GeneratorOutcome(
        digest=plan.digest,
        benchmark=experiment.benchmark.name,
        benchmark_fingerprint=plan.manifest.fingerprint,
        seed=plan.seed,
        held_out=settings.held_out,
        held_out_expressions=len(chosen),
        sampling_steps=settings.sampling_steps,
        guidance=settings.guidance,
        sampling_schedule=settings.sampling_schedule,
        iou=ious.means(),
        trainable_parameters=trainable,
        shown=tuple(held_out[1][sample].text for sample in shown),
        left_out={split: expressions.count for split, expressions in left_out.items()},
    )
    plan.judged_in.write_json(_outcome(plan), asdict(outcome))


def _save(
    plan: GeneratorPlan, training: PromptGeneratorTraining, rows: Sequence[dict[str, Any]]
) -> None:
    save_generator(plan.folder, training.averaged(), plan.header(len(training.samples), rows))


def _outcome(plan: GeneratorPlan) -> str:
    return f"outcome-{plan.judged}.json"


def _shown(plan: GeneratorPlan) -> str:
    return f"shown-{plan.judged}"


def _judge(
    plan: GeneratorPlan,
    sampler: Draws,
    vae: MaskDecoder,
    held_out: tuple[GeneratorSamples, list[ReferredExpression]],
    train_masks: list[Any],
    group: WorkerGroup,
) -> tuple[SampledIous, list[int]]:
    """IoUs of the evaluated held-out expressions, and which they are."""
    samples, expressions = held_out
    chosen = list(subsample(len(samples), plan.settings.evaluated))
    _, image, text = samples.take(chosen)
    average = best_mean_mask(train_masks, vae.config)
    masks = [expressions[sample].mask for sample in chosen]
    return sampled_ious(sampler, vae, (image, text), masks, average, group), chosen


def _paths(
    sampler: Draws,
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
    true = object_pixels(vae.config, (expressions[i].mask for i in shown))
    return vae.config.signed(torch.cat([true, masks.cpu()], dim=1))


def _main_values(outcome: GeneratorOutcome, header: GeneratorHeader) -> dict[str, str]:
    sizes = header.network
    return {
        "IoU of sampled masks": f"{outcome.iou['sampled']:.3f} on {outcome.held_out_expressions} "
        f"expressions of the {outcome.held_out} split",
        "IoU with another sample's expression": f"{outcome.iou['random_caption']:.3f}",
        "IoU of the best fixed mask": f"{outcome.iou['mean_mask']:.3f}",
        "IoU of the Mask-VAE alone": f"{outcome.iou['reconstruction']:.3f}",
        "latent": f"{sizes.latent_channels} x {sizes.latent_size} x {sizes.latent_size}",
        "schedule": _schedule_text(outcome, header),
        "trainable parameters": f"{outcome.trainable_parameters:,}",
        "expressions for training": (
            f"not known: {header.imported_from}"
            if header.train_expressions is None
            else f"{header.train_expressions:,}"
        )
        + left_out_text(outcome.left_out),
        "benchmark": outcome.benchmark,
        "seed": str(outcome.seed),
        "epochs": str(len(header.log)),
    }


def _schedule_text(outcome: GeneratorOutcome, header: GeneratorHeader) -> str:
    if header.schedule is None:
        return "none: one latent by regression"
    trained = f"{header.schedule.name}, {header.schedule.steps} steps"
    return f"{trained}, {outcome.sampling_steps} in sampling" + (
        f" with {outcome.sampling_schedule}" if outcome.sampling_schedule else ""
    )
