"""What a run of the prompt generator makes, from which parts: checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from system.backbones.dual_encoder import DualEncoder, load_backbone
from system.config.parse import parse_dataclass
from system.data.shards.manifest import Manifest
from system.data.shards.sound_shards import require_sound_shards
from system.data.shards.split_objects import (
    LeftOut,
    ReferredExpression,
    read_expressions,
    with_masks,
)
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.stage import MaskVaePlan, require_some
from system.diff_prompt.prompt_generator.conditions import ConditionEncoder
from system.diff_prompt.prompt_generator.generator_files import (
    HEADER,
    GeneratorHeader,
    digest_of_weights,
    generator_header,
    require_same_generator,
)
from system.diff_prompt.prompt_generator.generator_settings import (
    GENERATOR,
    REGRESSOR,
    PromptGeneratorSettings,
)
from system.diff_prompt.prompt_generator.mask_dit import MaskDitConfig
from system.engine.model_stage import ModelExperiment, Show
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.run_directory import METRICS


def _model_in(path: str, experiment: ModelExperiment) -> Folder:
    """The model of a folder: itself, or what a run with that directory trained in our data_path."""
    folder = Folder.of(path)
    if folder.exists(HEADER) or not folder.exists(METRICS):
        return folder
    metrics = folder.read_json(METRICS)
    kind, digest = (metrics.get(key) for key in ("stage", "digest"))
    if kind not in (GENERATOR, REGRESSOR) or not isinstance(digest, str):
        raise ConfigError(
            f"{folder.uri} is no run of stage=prompt_generator; give the folder that its last "
            "lines name as the model"
        )
    return DataDirectory.of(experiment).model(str(kind), digest)


@dataclass(frozen=True)
class GeneratorPlan:
    """An experiment, checked: its settings, its data, the models it builds on, its own place.

    `given` is the header of the trained or imported model that `settings.path` names.
    """

    experiment: ModelExperiment
    settings: PromptGeneratorSettings
    manifest: Manifest
    tasks: tuple[str, ...]
    vae: MaskVaePlan
    encoder: DualEncoder
    network: MaskDitConfig
    given: GeneratorHeader | None = None

    @classmethod
    def of(cls, experiment: ModelExperiment) -> GeneratorPlan:
        """Raises ConfigError or DataError naming the field or file that cannot be used."""
        manifest = experiment.manifest()
        settings = parse_dataclass(PromptGeneratorSettings, experiment.stage, "config.stage")
        if settings.regresses:  # which always sees its conditions
            settings = replace(settings, condition_dropout=0.0, guidance=1.0)
        vae = MaskVaePlan.of(experiment.with_stage(settings.mask_vae))
        if vae.given and vae.given.imported_from and settings.latents == "mode_scaled":
            raise ConfigError(
                f"stage.mask_vae.path={vae.settings.path} was imported, so nobody knows what "
                "scales its latents; set stage.latents=sample_unscaled"
            )
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
        plan = cls(experiment, settings, manifest, order, vae, encoder, network)
        if settings.path is None:
            return plan
        given = generator_header(plan.folder)
        require_same_generator(given, plan.header(None, ()), settings.path)
        return replace(plan, given=given)

    @property
    def digest(self) -> str:
        """Of all that determines the model: settings, data, encoder, Mask-VAE, seed."""
        if self.given is not None:
            return self.given.digest or digest_of_weights(self.folder)
        # what stands for encoder and Mask-VAE are their weights, wherever they were loaded from
        return FeatureStore.key(
            kind=self.settings.name,
            stage=self.settings.deciding,
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
        if self.settings.path is not None:
            return _model_in(self.settings.path, self.experiment)
        return DataDirectory.of(self.experiment).model(self.settings.name, self.digest)

    @property
    def judged_in(self) -> Folder:
        """Where its outcome lies: beside the model, but never in a folder that was given."""
        if self.given is None:
            return self.folder
        key = FeatureStore.key(model=self.digest, benchmark=self.manifest.fingerprint)
        return DataDirectory.of(self.experiment).model(self.settings.name, f"given-{key}")

    @property
    def decoder(self) -> MaskDecoder:
        """The Mask-VAE between masks and the latents that the generator works with."""
        return self.vae.decoder(scaled=self.settings.latents == "mode_scaled")

    def header(
        self, train_expressions: int | None, log: Sequence[dict[str, float]]
    ) -> GeneratorHeader:
        """The header of a model that is trained as planned."""
        settings = self.settings
        return GeneratorHeader(
            network=self.network,
            schedule=None if settings.regresses else settings.schedule,
            backbone=settings.encoder.name,
            backbone_fingerprint=self.encoder.fingerprint,
            mask_vae=self.vae.digest,
            condition_dropout=0.0 if settings.regresses else settings.condition_dropout,
            train_expressions=train_expressions,
            log=tuple(log),
            digest="" if settings.path is not None else self.digest,
            text_embedding=settings.text_embedding,
            latents=settings.latents,
            condition_scale=settings.condition_scale,
            condition_resize=settings.condition_resize,
        )

    @property
    def judged(self) -> str:
        """Names what came of judging the model as the settings say."""
        return FeatureStore.key(**self.settings.judging)

    def condition_encoder(self, group: WorkerGroup, show: Show) -> ConditionEncoder:
        """What embeds images and expressions, once for all runs that share their place."""
        place = DataDirectory.of(self.experiment).store("embeddings")
        settings = self.settings
        return ConditionEncoder(
            self.encoder,
            settings.text_embedding,
            settings.condition_scale,
            settings.condition_resize,
            group,
            place,
            show,
        )

    def expressions(
        self, split: str, left_out: LeftOut | None = None
    ) -> dict[str, list[ReferredExpression]]:
        """The expressions of a split whose objects have a box and a mask, by task.

        Others are counted in `left_out`.
        Raises DataError naming a task whose split has none, or the benchmark if no task has.
        """
        found = {}
        left_out = LeftOut() if left_out is None else left_out
        for task in self.tasks:
            handle = self.manifest.task(task).handle(split)
            found[task] = with_masks(handle, read_expressions(handle, left_out), left_out)
        require_some(found, "referring expression to a mask", split, self.manifest.benchmark)
        return found

    def check_data(self) -> None:
        """Raises DataError for what cannot be learned from, before anything is computed."""
        require_sound_shards(self.manifest)
        self.vae.masks("train")
        self.vae.masks(self.settings.held_out)
        self.expressions(self.settings.held_out)
        count = sum(map(len, self.expressions("train").values()))
        if count < self.settings.batch_size:
            raise DataError(
                f"the train split has {count} expressions, fewer than the batch of "
                f"{self.settings.batch_size}; lower stage.batch_size"
            )
