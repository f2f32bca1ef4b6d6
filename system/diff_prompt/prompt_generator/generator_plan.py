"""What a run of the prompt generator makes, from which parts: checked before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from system.backbones.dual_encoder import DualEncoder, load_backbone
from system.config.parse import parse_dataclass
from system.data.shards.manifest import Manifest
from system.data.shards.split_objects import (
    LeftOut,
    ReferredExpression,
    read_expressions,
    with_masks,
)
from system.diff_prompt.mask_vae.stage import MaskVaePlan
from system.diff_prompt.prompt_generator.conditions import ConditionEncoder
from system.diff_prompt.prompt_generator.generator_settings import PromptGeneratorSettings
from system.diff_prompt.prompt_generator.mask_dit import MaskDitConfig
from system.engine.model_stage import ModelExperiment, Show
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder

KIND = "prompt_generator"


@dataclass(frozen=True)
class GeneratorPlan:
    """An experiment, checked: its settings, its data, the models it builds on, its own place."""

    experiment: ModelExperiment
    settings: PromptGeneratorSettings
    manifest: Manifest
    tasks: tuple[str, ...]
    vae: MaskVaePlan
    encoder: DualEncoder
    network: MaskDitConfig

    @classmethod
    def of(cls, experiment: ModelExperiment) -> GeneratorPlan:
        """Raises ConfigError or DataError naming the field or file that cannot be used."""
        manifest = experiment.manifest()
        settings = parse_dataclass(PromptGeneratorSettings, experiment.stage, "config.stage")
        vae = MaskVaePlan.of(experiment.with_stage(settings.mask_vae))
        network = settings.network.sizes(vae.settings.vae.latent_shape)
        encoder = load_backbone(settings.encoder)
        if encoder.shape.feature_width != network.width:
            raise ConfigError(
                f"stage.network.width={network.width}, but the embeddings of the encoder "
                f"{settings.encoder.path} have {encoder.shape.feature_width} entries, and each is "
                f"added to a timestep's; set stage.network.width={encoder.shape.feature_width}"
            )
        shape = encoder.shape
        if settings.text_embedding == "tokens" and shape.text_width != network.width:
            raise ConfigError(
                f"stage.text_embedding=tokens gives {shape.text_width} entries, an image has "
                f"{network.width}; set stage.text_embedding=pooled"
            )
        settings.micro_batches_for(experiment.cluster.workers)
        order = manifest.order(experiment.benchmark.tasks)
        return cls(experiment, settings, manifest, order, vae, encoder, network)

    @property
    def digest(self) -> str:
        """Of all that determines the model: settings, data, encoder, Mask-VAE, seed."""
        own = asdict(self.settings)
        # what stands for the first two are their weights, wherever they were loaded from
        apart = ("encoder", "mask_vae", "seed", *self.settings.judging)
        own = {key: value for key, value in own.items() if key not in apart}
        return FeatureStore.key(
            kind=KIND,
            stage=own,
            encoder=self.encoder.fingerprint,
            mask_vae=self.vae.digest,
            benchmark=self.manifest.fingerprint,
            tasks=list(self.tasks),
            seed=self.seed,
        )

    @property
    def seed(self) -> int:
        """The seed of weights, order and noise of the training."""
        own = self.settings.seed
        return self.experiment.seed if own is None else own

    @property
    def folder(self) -> Folder:
        """Where the finished model lies."""
        return DataDirectory.of(self.experiment).model(KIND, self.digest)

    @property
    def judged(self) -> str:
        """Names what came of judging the model as the settings say."""
        return FeatureStore.key(**self.settings.judging)

    def condition_encoder(self, group: WorkerGroup, show: Show) -> ConditionEncoder:
        """What embeds images and expressions, once for all runs that share their place."""
        place = DataDirectory.of(self.experiment).store("embeddings")
        return ConditionEncoder(self.encoder, self.settings.text_embedding, group, place, show)

    def expressions(
        self, split: str, left_out: LeftOut | None = None
    ) -> dict[str, list[ReferredExpression]]:
        """The expressions of a split whose objects have a box and a mask, by task.

        Others are counted in `left_out`.
        Raises DataError naming a task whose split has none.
        """
        found = {}
        left_out = LeftOut() if left_out is None else left_out
        for task in self.tasks:
            handle = self.manifest.task(task).handle(split)
            found[task] = with_masks(handle, read_expressions(handle, left_out), left_out)
            if not found[task]:
                raise DataError(
                    f"task {task!r} has no referring expression in split {split!r}; leave it out "
                    "of benchmark.tasks or take a benchmark with expressions"
                )
        return found

    def check_data(self) -> None:
        """Raises DataError for what cannot be learned from, before anything is computed."""
        self.manifest.verify()
        self.vae.masks("train")
        self.vae.masks(self.settings.held_out)
        self.expressions(self.settings.held_out)
        count = sum(map(len, self.expressions("train").values()))
        if count < self.settings.batch_size:
            raise DataError(
                f"the train split has {count} expressions, fewer than the batch of "
                f"{self.settings.batch_size}; lower stage.batch_size"
            )
