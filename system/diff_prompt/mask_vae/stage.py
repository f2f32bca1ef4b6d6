"""Stage 1 of Diff-Prompt: the Mask-VAE, trained on object masks and judged on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from system.config.differences import differences, plain
from system.config.parse import parse_dataclass
from system.data.shards.manifest import Manifest
from system.data.shards.schema import Mask
from system.data.shards.sound_shards import require_sound_shards
from system.data.shards.split_objects import LeftOut, read_object_masks
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_files import (
    HEADER,
    MaskVaeHeader,
    load_mask_vae,
    mask_vae_header,
    save_mask_vae,
)
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig
from system.diff_prompt.mask_vae.mask_vae_training import (
    MaskVaeSettings,
    MaskVaeTraining,
    check_batch,
    reconstruct,
    reconstruction_ious,
)
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.diff_prompt.settings_digest import digested
from system.engine.epochs import EpochLoop
from system.engine.model_stage import ModelExperiment, Show, Tell, started, tell_model, worker_of
from system.engine.provenance import code_provenance, data_provenance
from system.engine.worker_group import WorkerGroup
from system.engine.worker_log import RankLog
from system.errors import ConfigError, DataError, StorageError
from system.report.metrics_view import MetricsView
from system.report.pages.model_pages import mask_grid, mask_page
from system.report.pages.origin_rows import provenance
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.run_directory import METRICS, MODEL_LOG, REPORT, RunDirectory

KIND = "mask_vae"
GRID = "masks.png"
SHOWN = 24  # masks in the grid


@dataclass(frozen=True)
class MaskVaePlan:
    """An experiment, checked: its settings, its data, and where its model lies.

    `given` is the header of the trained or imported model that `settings.path` names.
    """

    experiment: ModelExperiment
    settings: MaskVaeSettings
    manifest: Manifest
    tasks: tuple[str, ...]
    given: MaskVaeHeader | None = None

    @classmethod
    def of(cls, experiment: ModelExperiment) -> MaskVaePlan:
        """Raises ConfigError, DataError or StorageError naming the field or file that is wrong."""
        manifest = experiment.manifest()
        settings = parse_dataclass(MaskVaeSettings, experiment.stage, "config.stage")
        given = None if settings.path is None else given_mask_vae(settings.path, settings.vae)
        order = manifest.order(experiment.benchmark.tasks)
        return cls(experiment, settings, manifest, order, given)

    @property
    def digest(self) -> str:
        """Of all that determines the model: settings, data, seed; not the workers."""
        if self.given is not None:
            return self.given.digest
        return FeatureStore.key(
            kind=KIND,
            stage={key: value for key, value in digested(self.settings).items() if key != "seed"},
            benchmark=self.manifest.fingerprint,
            tasks=list(self.tasks),
            seed=self.seed,
        )

    @property
    def seed(self) -> int:
        """The seed of weights, order and noise."""
        own = self.settings.seed
        return self.experiment.seed if own is None else own

    @property
    def folder(self) -> Folder:
        """Where the finished model lies."""
        if self.settings.path is not None:
            return Folder.of(self.settings.path)
        return DataDirectory.of(self.experiment).model(KIND, self.digest)

    def decoder(self, *, scaled: bool) -> MaskDecoder:
        """The finished model, loaded when it is first used; see `MaskDecoder.at`."""
        return MaskDecoder.at(self.folder, self.settings.vae, self.digest, scaled=scaled)

    def masks(self, split: str, left_out: LeftOut | None = None) -> dict[str, list[Mask]]:
        """The object masks of a split, by task; empty ones are counted in `left_out`.

        Raises DataError naming a task whose split holds no object with a mask, or the benchmark if
        none of them holds any.
        """
        found = {}
        for task in self.tasks:
            handle = self.manifest.task(task).handle(split)
            found[task] = [entry.mask for entry in read_object_masks(handle, left_out)]
        require_some(found, "object mask", split, self.manifest.benchmark)
        return found


class MaskVaeStage:
    """What a run of `stage=mask_vae` does."""

    experiment = ModelExperiment
    metrics = ("held_out_iou",)
    logged = ("held_out_iou", "trainable_parameters")

    def place(self, experiment: ModelExperiment) -> Folder:
        """Where the finished model lies."""
        return MaskVaePlan.of(experiment).folder

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        """Nothing: it learns from masks alone."""
        return ()

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the model is there already; checks settings and data first."""
        plan = MaskVaePlan.of(experiment)
        if plan.given is not None:
            raise ConfigError(
                f"stage.path={plan.settings.path} is a trained Mask-VAE, for the stages that build "
                "on one (stage.mask_vae.path); this run would train one: set stage.path=null"
            )
        if mask_vae_header(plan.folder) is not None:
            return True
        require_sound_shards(plan.manifest)
        plan.masks(plan.settings.held_out)
        masks = _all(plan.masks("train"))
        check_batch(plan.settings, experiment.cluster.workers, len(masks))
        return False

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`."""
        experiment, show = started(config)
        plan = MaskVaePlan.of(experiment)
        with worker_of(experiment) as (group, log):
            _train(plan, group, log, show)

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write metrics, grid and page into the run directory and report the main metrics."""
        plan = MaskVaePlan.of(experiment)
        vae, header = load_mask_vae(plan.folder)
        folder = RunDirectory.of(experiment).folder
        sizes = plan.settings.vae
        held_out = _all(plan.masks(plan.settings.held_out))
        step = max(1, len(held_out) // SHOWN)
        shown = object_pixels(sizes, held_out[::step][:SHOWN])
        grid = mask_grid(sizes.signed(shown), sizes.signed(reconstruct(vae, shown)))
        folder.write(GRID, grid)
        metrics = asdict(header)
        metrics[MODEL_LOG] = metrics.pop("log")
        origin = {"benchmark": data_provenance(plan.manifest), **code_provenance()}
        head = {"run": experiment.run_name, "stage": KIND, **origin}
        folder.write_json(METRICS, {**head, **metrics})
        values = _main_values(header, plan)
        on_page = values | dict(provenance(MetricsView(head)))
        page = mask_page(experiment.run_name, on_page, header.held_out_iou_per_task, grid)
        folder.write(REPORT, page.encode())
        tell_model(tell, values, plan.folder, folder)


STAGE = MaskVaeStage()


def given_mask_vae(path: str, sizes: MaskVaeConfig) -> MaskVaeHeader:
    """The header of the Mask-VAE in a folder, whose sizes the settings have to name.

    Raises StorageError if there is none, ConfigError naming the settings that differ.
    """
    folder = Folder.of(path)
    header = mask_vae_header(folder)
    if header is None:
        raise StorageError(
            f"mask_vae.path={path} holds no {HEADER}; give the folder of a trained Mask-VAE, or of "
            "one that `promptide import mask_vae` wrote"
        )
    wrong = differences(plain(asdict(header.vae)), plain(asdict(sizes)))
    if wrong:
        named = ", ".join(
            f"mask_vae.vae.{key}={old} (not {new})" for key, (old, new) in wrong.items()
        )
        raise ConfigError(
            f"the Mask-VAE in {path} is of other sizes than the settings; set {named}"
        )
    return header


def require_some(
    found: Mapping[str, Sequence[object]], what: str, split: str, benchmark: str
) -> None:
    """Raises DataError naming the tasks without any, or the benchmark if all are."""
    without = [task for task, entries in found.items() if not entries]
    if len(without) == len(found):
        raise DataError(
            f"benchmark {benchmark!r} has no {what} in split {split!r}, in any of the tasks: masks "
            "have to come from a benchmark with segmented objects; train on one (such as "
            "benchmark=diff_prompt_refcoco), and use its models by method.generator.benchmark"
        )
    if without:
        raise DataError(
            f"task {without[0]!r} has no {what} in split {split!r}; leave it out of "
            "benchmark.tasks or take another split"
        )


def _train(plan: MaskVaePlan, group: WorkerGroup, log: RankLog, show: Show) -> None:
    settings, experiment = plan.settings, plan.experiment
    left_out = {split: LeftOut() for split in ("train", settings.held_out)}
    masks = _all(plan.masks("train", left_out["train"]))
    training = MaskVaeTraining(
        settings, masks, group, seed=plan.seed, digest=plan.digest, show=show
    )
    rows = EpochLoop(training, RunDirectory.of(experiment).folder, log).run()
    held_out = plan.masks(settings.held_out, left_out[settings.held_out])
    for objects in left_out.values():
        if objects.count:
            log.add(f"masks: {objects}")
    ious = reconstruction_ious(training.vae, _all(held_out), settings.vae, group)
    if group.leads:
        per_task = torch.split(ious, [len(found) for found in held_out.values()])
        scale = training.latent_scale()
        training.vae.register_to_config(scaling_factor=scale)
        header = MaskVaeHeader(
            digest=plan.digest,
            vae=settings.vae,
            benchmark=experiment.benchmark.name,
            benchmark_fingerprint=plan.manifest.fingerprint,
            seed=plan.seed,
            train_masks=len(masks),
            held_out_masks=len(ious),
            left_out={split: objects.count for split, objects in left_out.items()},
            held_out_iou=float(ious.double().mean()),
            held_out_iou_per_task={
                task: float(part.double().mean())
                for task, part in zip(held_out, per_task, strict=True)
            },
            latent_scale=scale,
            trainable_parameters=sum(p.numel() for p in training.parameters.values()),
            log=tuple(rows),
        )
        save_mask_vae(plan.folder, training.vae, header)


def _main_values(header: MaskVaeHeader, plan: MaskVaePlan) -> dict[str, str]:
    channels, side, _ = header.vae.latent_shape
    split = plan.settings.held_out
    return {
        "reconstruction IoU": f"{header.held_out_iou:.3f} on {header.held_out_masks} masks of the "
        f"{split} split",
        "masks": f"{header.vae.image_size} pixels, {header.train_masks} for training"
        + left_out_text(header.left_out),
        "latent": f"{channels} x {side} x {side}",
        "trainable parameters": f"{header.trainable_parameters:,}",
        "benchmark": header.benchmark,
        "seed": str(header.seed),
        "epochs": str(len(header.log)),
    }


def left_out_text(left_out: Mapping[str, int]) -> str:
    """How many of which split were left out for want of an area; nothing if none were."""
    counts = ", ".join(f"{count:,} of {split}" for split, count in left_out.items() if count)
    return f"; without area: {counts}" if counts else ""


def _all(masks: dict[str, list[Mask]]) -> list[Mask]:
    return [mask for found in masks.values() for mask in found]
