"""Referring-expression comprehension as a stream's objective: boxes on a frozen grounder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor
from typing_extensions import override

from system.backbones.computation import placed
from system.config.schema import ExperimentConfig, Gallery, GrounderConfig, InputConfig
from system.data.shards.loading import read_images
from system.data.shards.manifest import Manifest, SplitHandle, TaskEntry
from system.data.shards.split_objects import read_expressions, subsample
from system.diff_prompt.latent_source import (
    LatentSource,
    as_learned,
    latent_source,
    require_masks,
)
from system.diff_prompt.mask_sources import NOTES
from system.diff_prompt.prompt_latents import PromptLatents, SplitLatents
from system.engine.loader_threads import loader_threads
from system.engine.model_stage import ModelExperiment
from system.errors import ConfigError
from system.grounders.grounder import Grounder, KeepingGrounder, load_grounder
from system.methods.sharing import MethodKind, StreamMethod, method_kind
from system.objectives.grounding.chosen_expressions import (
    ChosenExpressions,
    chosen_expressions,
    count_chosen,
)
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.objectives.grounding.grounding_evaluation import GroundingEvaluation
from system.objectives.grounding.grounding_training import EXPRESSIONS, GroundingTraining
from system.objectives.grounding.kept_towers import KEPT_FOLDER, KeptTowers
from system.objectives.grounding.rec_rank_table import rec_rank_table
from system.objectives.grounding.rec_scoring import ZERO_SHOT_FOLDER, RecScorer
from system.objectives.grounding.unread_words import unread_notes
from system.objectives.objective import (
    FrozenModel,
    NameFeatures,
    OpenTest,
    StreamObjective,
    StreamWork,
    TaskRouter,
    Worker,
    fitting_method,
    saved_method,
)
from system.objectives.retrieval.retrieval_examples import QUERIES_PER_TASK
from system.objectives.task_training import LeasedTask
from system.results.rec_recalls import METRICS
from system.storage.adapters import AdapterHeader
from system.storage.data_directory import DataDirectory
from system.storage.feature_store import FeatureStore
from system.storage.kept_rows import KeptFolder
from system.storage.run_directory import BOX_EXAMPLES

BOX = pa.list_(pa.float64())  # left, top, right, bottom in shares; null: none was found

GIGABYTE = 1e9

EXAMPLES = pa.schema(
    [
        ("evaluated_index", pa.int32()),
        ("task", pa.string()),
        ("query_index", pa.int32()),
        ("query", pa.string()),
        ("true_box", BOX),
        ("before_box", BOX),
        ("after_box", BOX),
        ("image", pa.binary()),
    ]
)


class GroundingWork(StreamWork):
    """A grounder on this worker."""

    examples_file = BOX_EXAMPLES
    model: Grounder
    evaluation: GroundingEvaluation

    def __init__(self, worker: Worker) -> None:
        experiment = worker.experiment
        stage, batch_size = experiment.stage, experiment.evaluation.batch_size
        self.worker = worker
        threads = loader_threads(stage, worker.note)
        self.model = placed(load_grounder(_grounder(experiment)), worker.group.device)
        self.transform = str(self.model.image_transform())
        self.features = GrounderFeatures(
            self.model,
            worker.group,
            batch_size,
            threads,
            FeatureStore(DataDirectory.of(experiment).store("features"), worker.note),
        )
        self.kept = None
        if stage.kept_gb is not None and isinstance(self.model, KeepingGrounder):
            place = DataDirectory.of(experiment).store(KEPT_FOLDER)
            remedy = (
                f"free space, set another {place.setting}, or stage.kept_gb=null to keep nothing"
            )
            folder = KeptFolder.of(place, stage.kept_gb * GIGABYTE, worker.note, remedy)
            self.kept = KeptTowers(
                self.model, worker.group, batch_size, threads, folder, worker.show
            )
        self.scorer = RecScorer(self.model, worker.group, batch_size, threads, self.kept)
        self.evaluation = self._evaluation(worker.open_test)
        self._method: StreamMethod | None = None
        self._latent_source: LatentSource | None = None
        self._latents: PromptLatents | None = None

    def _evaluation(self, open_test: OpenTest) -> GroundingEvaluation:
        experiment = self.worker.experiment
        return GroundingEvaluation(
            self.scorer,
            self.features,
            open_test,
            most=experiment.evaluation.expressions,
            zero_shot_store=FeatureStore(
                DataDirectory.of(experiment).store(ZERO_SHOT_FOLDER), self.worker.note
            ),
            show=self.worker.show,
            latents_of=self._latents_of,
            epoch=experiment.stage.epochs,  # that no training has
        )

    @override
    def build_method(self, header: AdapterHeader) -> StreamMethod:
        learned = as_learned(header.method, header.benchmark)
        source = self._latent_source = latent_source(self.worker.experiment, learned)
        masks = None if source is None else source.stage.masks(source.generator)
        self._method = saved_method(header, self.model, masks)
        return self._method

    def _latents_of(self, chosen: ChosenExpressions) -> SplitLatents | None:
        """The latents of a split's expressions, where the method needs any."""
        assert self._method is not None, "the method comes before its latents"
        needs, source = self._method.latent_needs, self._latent_source
        if needs is None:
            return None
        if self._latents is None:
            assert source is not None
            self._latents = source.latents(needs, self.worker.group, self.worker.show)
        return self._latents.of(chosen.handle, chosen.samples)

    @override
    def add_tests(self, count: int, *, later: bool = False) -> None:
        for _ in range(count):
            self.evaluation.add_task()

    @override
    def evaluation_of(
        self, open_test: OpenTest, tasks: int, gallery: Gallery
    ) -> GroundingEvaluation:
        evaluation = self._evaluation(open_test)  # an expression searches its own image
        for _ in range(tasks):
            evaluation.add_task()
        return evaluation

    @override
    def training_features(self, handle: SplitHandle) -> tuple[Tensor, Tensor]:
        # The texts are the expressions that are learned.
        chosen = chosen_expressions(handle, self.worker.experiment.stage.train_expressions)
        return self.features.of(handle, [expression.text for expression in chosen.expressions])

    @override
    def training(
        self,
        lease: LeasedTask,
        method: StreamMethod,
        similarity: Tensor,
        open_train: Callable[[], SplitHandle],
        show: Callable[[dict[str, Any]], None],
    ) -> GroundingTraining:
        group, experiment = self.worker.group, self.worker.experiment
        similarity = similarity.to(group.device)
        return GroundingTraining(
            experiment,
            lease,
            method,
            self.model,
            group,
            similarity,
            open_train,
            show,
            self._latents_of,
            self.worker.note,
            self.kept,
        )

    @override
    def examples(self, tasks: Sequence[str]) -> pa.Table:
        return box_examples(self.evaluation, self.worker.open_test)

    @override
    def ranks(self, tasks: Sequence[str]) -> pa.Table:
        return rec_rank_table(self.evaluation.evaluated)

    @override
    def outcome(self, method: StreamMethod, router: TaskRouter | None) -> dict[str, Any]:
        """Recalls by split, and where the prompts' masks came from.

        Where one evaluation judged all, also how many steps it denoised.
        """
        splits = self.worker.experiment.evaluation.splits
        found: dict[str, Any] = {"splits": self.evaluation.by_split(splits, method, router)}
        if method.latent_needs is not None:
            source = method.latent_needs.source
            found["mask_source"] = {"name": source, "note": NOTES[source]}
        if len(splits) == 1 and not self.evaluation.joined:
            return found
        steps = 0 if self._latents is None else self._latents.steps_run
        return found | {"denoising_steps": steps}


class GroundingObjective(StreamObjective):
    """Streams of referring expressions on a frozen grounder."""

    recalls = METRICS

    @override
    def method_kind(self, experiment: ExperimentConfig) -> MethodKind:
        return method_kind(experiment.method, "grounding")

    @override
    def check(self, experiment: ExperimentConfig) -> tuple[Grounder, StreamMethod]:
        if experiment.inputs != InputConfig():
            raise ConfigError(
                "inputs: these settings are a dual encoder's; a grounder has its own transform, so "
                "leave them as configs/config.yaml has them"
            )
        if experiment.stage.cache_gb is not None:
            raise ConfigError(
                f"stage.cache_gb={experiment.stage.cache_gb:g}: pixels are kept for dual encoders "
                "alone, whose images are of one size; leave it null"
            )
        if experiment.stage.augmentation != "none":
            raise ConfigError(
                f"stage.augmentation={experiment.stage.augmentation}: one that moves the image "
                "would have to move boxes and words like 'left' too; use none"
            )
        grounder = load_grounder(_grounder(experiment))
        source = latent_source(experiment, experiment.method)
        masks = None if source is None else source.stage.masks(source.generator)
        method = fitting_method(experiment.method, experiment.seed, grounder, masks)
        needs = method.latent_needs
        if source is not None and needs is not None:
            source.check(needs)
        return grounder, method

    @override
    def before(self, experiment: ExperimentConfig) -> Sequence[ModelExperiment]:
        """The prompt generator, or what a control takes for it, for a method of latents."""
        source = latent_source(experiment, experiment.method)
        if source is None:
            return ()
        needs = self.check(experiment)[1].latent_needs
        return () if needs is None else source.models(needs)

    @override
    def check_training(
        self, experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]
    ) -> dict[str, int]:
        stage, workers = experiment.stage, experiment.cluster.workers
        batches: dict[str, int] = {}
        if self.method_kind(experiment).trains_on == "nothing":
            return batches
        for name in tasks:
            members = manifest.task(name).handle("train").members
            count = sum(count_chosen(part, stage.train_expressions) for part in members)
            batches[name] = stage.batch_for(name, count, workers, of=EXPRESSIONS)
            require_masks(experiment.method, manifest.task(name).handle("train"))
        return batches

    @override
    def trainable(self, task: TaskEntry) -> bool:
        return next(read_expressions(task.handle("train")), None) is not None

    @override
    def check_test(self, experiment: ExperimentConfig, handle: SplitHandle) -> str | None:
        if next(read_expressions(handle), None) is None:
            return (
                f"task {handle.task!r} has no expression in split {handle.split!r}; choose another "
                "evaluation.split, or a benchmark with expressions"
            )
        require_masks(experiment.method, handle)
        return None

    @override
    def check_inputs(
        self,
        experiment: ExperimentConfig,
        manifest: Manifest,
        tasks: Sequence[str],
        model: FrozenModel,
    ) -> tuple[str, ...]:
        assert isinstance(model, Grounder)
        evaluation = experiment.evaluation
        most: dict[str, int | None] = dict.fromkeys(evaluation.splits, evaluation.expressions)
        if self.method_kind(experiment).trains_on != "nothing":
            most["train"] = experiment.stage.train_expressions
        parts = [
            (part, count)
            for split, count in most.items()
            for name in tasks
            for part in manifest.task(name).handle(split).members
        ]
        return unread_notes(model, parts)

    @override
    def names(self, experiment: ExperimentConfig) -> NameFeatures:
        grounder = load_grounder(_grounder(experiment))
        return grounder.name_features

    @override
    def work(self, worker: Worker) -> GroundingWork:
        return GroundingWork(worker)


def _grounder(experiment: ExperimentConfig) -> GrounderConfig:
    """The section of the grounder. Raises ConfigError if none is chosen."""
    if experiment.grounder is None:
        raise ConfigError(
            "stage.objective=grounding: grounder is not set; choose a group, such as "
            "grounder=tiny_grounder"
        )
    return experiment.grounder


def box_examples(evaluation: GroundingEvaluation, open_test: OpenTest) -> pa.Table:
    """The best boxes for a few expressions of each task, by the frozen grounder and as learned.

    A random subsample of the task's test split: chosen by place, not by result.
    """
    records: list[dict[str, Any]] = []
    opened = [part for task in range(evaluation.tasks) for part in open_test(task).members]
    for evaluated, handle in zip(evaluation.evaluated, opened, strict=True):
        expressions = evaluated.chosen.expressions
        places = subsample(len(expressions), QUERIES_PER_TASK)
        images = read_images(handle, [expressions[place].row for place in places])
        for number, (place, image) in enumerate(zip(places, images, strict=True)):
            expression = expressions[place]
            records.append(
                {
                    "evaluated_index": evaluated.index,
                    "task": handle.task,
                    "query_index": number,
                    "query": expression.text,
                    "true_box": list(expression.box),
                    "before_box": _box(evaluated.plain.best[place]),
                    "after_box": _box(evaluated.prompted.best[place]),
                    "image": image.web_image(),
                }
            )
    return pa.Table.from_pylist(records, schema=EXAMPLES)


def _box(found: Tensor) -> list[float] | None:
    values: list[float] = found.tolist()
    return None if any(map(math.isnan, values)) else values


OBJECTIVE = GroundingObjective()
