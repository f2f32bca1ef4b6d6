"""What the workers of an alignment do: judge the frozen grounder, train, judge again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from system.data.shards.split_objects import subsample
from system.diff_prompt.prompt_latents import PromptLatents, SplitLatents
from system.engine.epochs import trained
from system.engine.model_stage import Show
from system.engine.phase_clock import PhaseClock
from system.engine.rank_log import RankLog
from system.engine.worker_group import WorkerGroup
from system.objectives.grounding.alignment.alignment_checkpoint import ModelCheckpoint
from system.objectives.grounding.alignment.alignment_files import (
    AlignmentResult,
    Example,
    save_result,
)
from system.objectives.grounding.alignment.alignment_plan import AlignmentPlan
from system.objectives.grounding.alignment.alignment_training import AlignmentTraining
from system.objectives.grounding.rec_scoring import ChosenExpressions, Found, RecScorer
from system.results.rec_figures import TaskRanks, split_recalls
from system.storage.adapters import AdapterFolder, AdapterHeader
from system.storage.run_directory import RunDirectory

SHOWN = 12  # examples on the page


class Alignment:
    """One worker's part of an alignment."""

    def __init__(self, plan: AlignmentPlan, group: WorkerGroup, log: RankLog, show: Show) -> None:
        self.plan = plan
        self.group = group
        self.log = log
        self.show = show
        self.clock = PhaseClock()
        self.grounder = plan.grounder.to(group.device)
        self.method = plan.method().to(group.device)
        settings = plan.settings
        self.scorer = RecScorer(
            self.grounder, group, settings.evaluation_batch, settings.loader_threads
        )
        self.latents: PromptLatents | None = None
        self.checkpoints = RunDirectory.of(plan.experiment).folder

    def run(self) -> None:
        """Judge the frozen grounder, train, judge again, and leave the result."""
        import ray.train

        plan, clock = self.plan, self.clock
        splits = {split: plan.expressions(split) for split in plan.settings.splits}
        with clock.phase("zero_shot"):
            before = {
                split: {task: self._zero_shot(chosen) for task, chosen in tasks.items()}
                for split, tasks in splits.items()
            }
        train = list(plan.expressions("train").values())
        training = None
        if trained(self.method):
            training = self._training(train)
            while not training.done:
                epoch = len(training.log)
                for _ in training.epoch():
                    if self.group.leads:
                        training.state().write(self.checkpoints)
                self.log.add(f"{training.log[epoch]}")
                ray.train.report(training.log[epoch])
            with clock.phase("evaluate"):
                after = {
                    split: {task: self._trained(chosen) for task, chosen in tasks.items()}
                    for split, tasks in splits.items()
                }
        else:
            after = before
        if self.group.leads:
            self._leave(training, sum(map(len, train)), splits, before, after)

    def _training(self, train: Sequence[ChosenExpressions]) -> AlignmentTraining:
        """The training where the run's last checkpoint left it, if there is one."""
        plan = self.plan
        with self.clock.phase("latents"):
            if plan.generator is not None and self.method.latent_needs is not None:
                self.latents = plan.latent_stage.latents(
                    plan.generator, self.method.latent_needs, self.group, self.show
                )
            paths = None if self.latents is None else [self._paths(chosen) for chosen in train]
        training = AlignmentTraining(
            plan.settings,
            self.grounder,
            self.method,
            train,
            self.group,
            seed=plan.experiment.seed,
            digest=plan.digest,
            show=self.show,
            latents=paths,
        )
        state = ModelCheckpoint.read(self.checkpoints)
        if state is not None:
            training.restore(state)
            self.log.add(f"going on after {len(training.log)} epochs")
        return training

    def _paths(self, chosen: ChosenExpressions) -> SplitLatents:
        """The latents of what is used of a split."""
        assert self.latents is not None
        return self.latents.of(chosen.handle, chosen.samples)

    def _zero_shot(self, chosen: ChosenExpressions) -> Found:
        """What the frozen grounder finds, or found before."""
        return self.scorer.frozen(chosen, self.plan.zero_shot_store, self.show)

    def _trained(self, chosen: ChosenExpressions) -> Found:
        return self.scorer.score(
            chosen,
            self.show,
            phase=f"evaluation {chosen.handle.task}, {chosen.handle.split}",
            entries=lambda _, tokens, path: self.method.entries(self.grounder, tokens, path),
            latents=None if self.latents is None else self._paths(chosen),
            epoch=self.plan.settings.epochs,  # fresh noise that no training epoch had
        )

    def _leave(
        self,
        training: AlignmentTraining | None,
        train_expressions: int,
        splits: Mapping[str, Mapping[str, ChosenExpressions]],
        before: Mapping[str, Mapping[str, Found]],
        after: Mapping[str, Mapping[str, Found]],
    ) -> None:
        """Write adapter and figures, the latter last."""
        plan, experiment = self.plan, self.plan.experiment
        adapter = AdapterFolder(plan.folder)
        adapter.save_task(0, {name: p.detach() for name, p in self.method.named_parameters()})
        adapter.save_header(
            AdapterHeader(
                backbone=self.grounder.name,
                backbone_fingerprint=self.grounder.fingerprint,
                method=experiment.method,
                benchmark=experiment.benchmark.name,
                benchmark_fingerprint=plan.manifest.fingerprint,
                protocol="corrected",
                seed=experiment.seed,
                tasks=plan.tasks,
            )
        )
        undefined: dict[str, str] = {}
        figures: dict[str, dict[str, Any]] = {}
        for phase, found in (("zero_shot", before), ("trained", after)):
            figures[phase] = {}
            for split, tasks in splits.items():
                ranks = {
                    task: TaskRanks(
                        found[split][task].ranks, [e.super_category for e in chosen.expressions]
                    )
                    for task, chosen in tasks.items()
                }
                recalls = split_recalls(ranks, split)
                figures[phase][split] = recalls.to_json()
                undefined |= {
                    f"{phase}.{split}.{path}": why for path, why in recalls.undefined.items()
                }
        seconds = self.clock.take() | {"train": training.seconds if training else 0.0}
        first = plan.settings.splits[0]
        save_result(
            plan.folder,
            AlignmentResult(
                digest=plan.digest,
                method=experiment.method,
                grounder=self.grounder.name,
                grounder_fingerprint=self.grounder.fingerprint,
                transform=str(self.grounder.image_transform()),
                benchmark=experiment.benchmark.name,
                benchmark_fingerprint=plan.manifest.fingerprint,
                seed=experiment.seed,
                tasks=plan.tasks,
                stage=asdict(plan.settings),
                train_expressions=train_expressions,
                trainable_parameters=sum(p.numel() for p in trained(self.method).values()),
                zero_shot=figures["zero_shot"],
                trained=figures["trained"],
                undefined=undefined,
                examples=tuple(_examples(splits[first], before[first], after[first])),
                log=tuple(training.log if training else ()),
                wall_seconds={name: round(value, 3) for name, value in seconds.items()},
                denoising_steps=0 if self.latents is None else self.latents.steps_run,
            ),
        )


def _examples(
    tasks: Mapping[str, ChosenExpressions],
    before: Mapping[str, Found],
    after: Mapping[str, Found],
) -> list[Example]:
    """Expressions spread over each task's, about as many from each task."""
    each = max(1, SHOWN // len(tasks))

    def places(number: int, count: int) -> list[int]:
        """Of each task others: tasks of one size would all show the same place."""
        every = subsample(count, SHOWN)
        taken = {(number + turn * len(tasks)) % len(every) for turn in range(each)} if every else ()
        return [every[at] for at in sorted(taken)]

    return [
        Example(
            task,
            chosen.expressions[index].row,
            chosen.expressions[index].text,
            chosen.expressions[index].box,
            _box(before[task].best[index]),
            _box(after[task].best[index]),
        )
        for number, (task, chosen) in enumerate(tasks.items())
        for index in places(number, len(chosen))
    ][:SHOWN]


def _box(found: Tensor) -> tuple[float, ...] | None:
    values: list[float] = found.tolist()
    return None if any(map(math.isnan, values)) else tuple(values)
