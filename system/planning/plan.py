"""A run's whole plan: its work, what that costs, and what it takes of memory, disk and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from system.config.schema import ExperimentConfig, OptimiserConfig
from system.data.shards.manifest import Manifest
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.latent_source import latent_section
from system.engine.model_stage import ModelExperiment, stage_of
from system.errors import DataError, PromptideError
from system.objectives.objective import OBJECTIVES
from system.planning.costs import Costs, grounding_costs, offline, retrieval_costs
from system.planning.measured import Measured, measure_stage, measure_stream
from system.planning.stage_costs import stage_costs
from system.planning.stage_work import stage_work
from system.planning.stream_work import IMAGE, TEXT, shard_bytes, stream_work
from system.planning.work import Work
from system.stream.preflight import prepared, stream_tasks

FLOAT = 4  # bytes
MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}  # of a parameter, beside its gradient


@dataclass(frozen=True)
class Amount:
    """Bytes of one kind, and what they are."""

    what: str
    bytes: float
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """Of one run. `flops` counts what its parts' costs are known of."""

    work: Work
    costs: Costs | None  # None: `missing` says why
    missing: str
    memory: tuple[Amount, ...]
    disk: tuple[Amount, ...]
    measured: Measured | None = None

    def flops(self, *, training: bool) -> float | None:
        """Of the training, or of all else; None where nothing is known."""
        if self.costs is None:
            return None
        return sum(
            one.likely * self.costs.of[one.part, one.mode].flops
            for one in self.work.passes
            if (one.mode == "training") == training and (one.part, one.mode) in self.costs.of
        )

    @property
    def uncosted(self) -> tuple[str, ...]:
        """Parts whose FLOPs are not counted."""
        of = {} if self.costs is None else self.costs.of
        return tuple(dict.fromkeys(p.part for p in self.work.passes if (p.part, p.mode) not in of))


def plans_of(
    experiment: ExperimentConfig | ModelExperiment, *, measure: bool = False
) -> list[Plan]:
    """The plans of a run and, before it, of those whose models it builds on and that are missing.

    Raises DataError for a benchmark that is not prepared, and what `stream_work` and `stage_work`
    raise.
    """
    if isinstance(experiment, ExperimentConfig):
        manifest = prepared(experiment)
        tasks = stream_tasks(experiment, manifest)
        work = stream_work(experiment, manifest, tasks)
        earlier, notes = _before(experiment)
        own = _stream_plan(experiment, manifest, tasks, replace(work, notes=work.notes + notes))
        if measure:
            own = replace(own, measured=measure_stream(experiment, manifest, tasks))
        return [*(plan for one in earlier for plan in plans_of(one)), own]
    stage = stage_of(experiment)
    before = [one for one in stage.before(experiment) if not stage_of(one).finished(one)]
    plan = _stage_plan(experiment)
    if measure:
        plan = replace(plan, measured=measure_stage(experiment))
    return [*(plan for one in before for plan in plans_of(one)), plan]


def _before(experiment: ExperimentConfig) -> tuple[list[ModelExperiment], tuple[str, ...]]:
    """The models' runs that a stream starts with, and why they are not known."""
    if experiment.stage.objective != "grounding" or latent_section(experiment.method) is None:
        return [], ()
    try:
        with offline():
            runs = OBJECTIVES.get(experiment.stage.objective).before(experiment)
        return [run for run in runs if not stage_of(run).finished(run)], ()
    except PromptideError as error:
        return [], (f"the stages before it are not planned: {error}",)


def _stream_plan(
    experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str], work: Work
) -> Plan:
    costs, missing = None, ""
    retrieval = experiment.stage.objective == "retrieval"
    try:
        if retrieval:
            costs = retrieval_costs(experiment, len(tasks))
        else:
            handles = [manifest.task(name).handle("train") for name in tasks]
            parts = [part for handle in handles for part in handle.members]
            first = next((e for part in parts for e in read_expressions(part)), None)
            if first is None:
                raise DataError("no task has an expression to train on")
            costs = grounding_costs(experiment, first)
    except PromptideError as error:
        missing = str(error)
    stage, workers = experiment.stage, max(experiment.cluster.workers, 1)
    batch = max((one.batch for one in work.trained), default=0)
    # All micro-batches of a worker wait for the loss of the whole batch; a grounder's do not.
    held = batch // (workers if retrieval else stage.micro_batches_for(workers))
    memory, disk = _room(work, costs, stage.optimiser, held, len(tasks))
    kept = Amount("task shards", _prepared_bytes(manifest), "on disk now")
    if costs is not None and stage.cache_gb is not None:
        splits = ("train", experiment.evaluation.splits[0])
        images = sum(manifest.task(t).handle(s).rows for t in tasks for s in splits)
        pixels = min(images * costs.image_bytes, stage.cache_gb * 1e9)
        disk += (Amount("pixel cache", pixels, "on each node's own disk"),)
    return Plan(work, costs, missing, memory, (kept, *disk))


def _stage_plan(experiment: ModelExperiment) -> Plan:
    work = stage_work(experiment)
    costs, missing = None, ""
    try:
        costs = stage_costs(experiment)
    except PromptideError as error:
        missing = str(error)
    workers = max(experiment.cluster.workers, 1)
    held = work.trained[0].batch // workers
    memory, disk = _room(work, costs, OptimiserConfig("adam"), held, 1)
    kept = Amount("task shards", _prepared_bytes(experiment.manifest()), "on disk now")
    return Plan(work, costs, missing, memory, (kept, *disk))


def _room(
    work: Work, costs: Costs | None, optimiser: OptimiserConfig, held: int, tasks: int
) -> tuple[tuple[Amount, ...], tuple[Amount, ...]]:
    """Memory of one worker, and what is written."""
    if costs is None:
        return (), ()
    per = costs.trainable * FLOAT
    saved = sum(cost.saved for (_, mode), cost in costs.of.items() if mode == "training")
    memory = (
        Amount("frozen weights", costs.weights, "in float32; stored in bf16 half"),
        Amount(
            "activations",
            saved * held,
            f"of {held} samples that wait for their gradient, in float32; about half in bf16",
        ),
        Amount(
            "trained parameters, gradients, optimiser",
            per * (2 + MOMENTS[optimiser.name]),
            f"{costs.trainable:,} parameters, {optimiser.name}",
        ),
    )
    features = sum(one.most for one in work.passes if one.kept and one.part in (IMAGE, TEXT))
    disk = (
        Amount("feature store", features * costs.feature_width * FLOAT, "shared by all runs"),
        Amount("adapters", per * tasks, f"{tasks} files"),
        Amount("checkpoint", per * (1 + MOMENTS[optimiser.name]), "of the running training"),
    )
    return memory, tuple(one for one in disk if one.bytes)


def _prepared_bytes(manifest: Manifest) -> int:
    handles = [
        task.handle(split) for task in manifest.tasks if not task.parts for split in task.splits
    ]
    return shard_bytes(handles)
