"""Training on a grounder: the same for any number of workers, over the tasks that are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.data.shards.manifest import JOINED, Manifest
from system.engine.epochs import DivergedError, EpochLoop
from system.engine.worker_group import WorkerGroup
from system.grounders.grounder import load_grounder
from system.methods.base import GroundingSetting
from system.methods.sharing import build_method
from system.objectives.grounding.chosen_expressions import ChosenExpressions
from system.objectives.grounding.grounding_training import GroundingTraining
from system.stream.preflight import prepared
from system.stream.task_source import Lease
from tests.engine.thread_group import ALONE, on_threads
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec

EXPRESSIONS = 24
STEPS = 3  # in batches of 8

#: The library loads a model under switches of the whole process, which these threads share.
ONE_AT_A_TIME = Lock()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    prepare_small_rec(root)
    return root


def experiment(root: Path, *more: str) -> ExperimentConfig:
    sizes = ("method.prompt_length=2", "stage.micro_batches=4", "stage.epochs=2")
    return compose(joined_overrides(root, "training", *sizes, *more))


def training(
    run: ExperimentConfig, group: WorkerGroup = ALONE, manifest: Manifest | None = None
) -> GroundingTraining:
    assert run.grounder is not None
    with ONE_AT_A_TIME:
        grounder = load_grounder(run.grounder)
    joined = (manifest or prepared(run)).task(JOINED)
    method = build_method(run.method, GroundingSetting(grounder.shape, run.seed))
    method.begin_task(0, grounder)
    return GroundingTraining(
        run,
        Lease(JOINED, 0, 1, 0),
        method,
        grounder,
        group,
        torch.ones(1, 1),
        lambda: joined.handle("train"),
        lambda progress: None,
    )


def trained(learner: GroundingTraining) -> list[dict[str, Any]]:
    """All epochs without a run directory; the log rows."""
    loop, rows = EpochLoop(learner, None), []  # type: ignore[arg-type]
    for _ in range(learner.epochs):
        rows.append(loop.epoch())
        del rows[-1]["images_per_second"]
    return rows


def test_two_workers_learn_what_one_learns_to_the_bit(root: Path) -> None:
    """And the loss falls: a method that stands still would pass the first part."""
    run = experiment(root)
    manifest, alone = prepared(run), training(run)
    expected = trained(alone)
    assert [row["step"] for row in expected] == [STEPS, 2 * STEPS]
    assert expected[1]["loss"] < expected[0]["loss"]

    def on(group: WorkerGroup) -> tuple[list[dict[str, Any]], GroundingTraining]:
        learner = training(run, group, manifest)
        return trained(learner), learner

    for rows, learner in on_threads(2, on):
        assert rows == expected
        for name, parameter in alone.parameters.items():
            assert torch.equal(parameter, learner.parameters[name]), name


def test_the_weight_is_of_the_grounders_losses_alone(root: Path) -> None:
    """LPI's release weighs them 0.8 and its own terms 0.1: a weight on all would be no weight."""

    def terms(*more: str) -> dict[str, float]:
        lpi = ("method=lpi", "method.prompt_length=4")
        learner = training(experiment(root, *lpi, *more))
        found = learner.gradients(next(learner.batches(0, 0)[1]))
        return {name: float(value) for name, value in found.items()}

    plain, weighted = terms(), terms("stage.grounding_loss_weight=0.8")
    own = {"words", "boxes", "centreness"}
    assert set(plain) > own, "the method has no terms of its own: the test would see nothing"
    for name, value in plain.items():
        assert weighted[name] == pytest.approx(0.8 * value if name in own else value), name


def test_the_keys_that_find_prompts_learn(root: Path) -> None:
    """No box depends on a key: only L2P's own term moves it, where a step asks for that."""
    learner = training(experiment(root, "method=l2p", "method.top_k=2", "method.prompt_length=1"))
    terms = learner.gradients(next(learner.batches(0, 0)[1]))
    assert 0 < terms["pull"] <= 0.5 * 2 * 2  # half of the distances to two keys
    for tower in ("vision", "text"):
        gradient = learner.parameters[f"{tower}.keys"].grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_an_epoch_has_every_expression_of_every_member_once(root: Path) -> None:
    """Expressions of a member that is left out would be judged and never learned."""
    learner = training(experiment(root))
    steps, batches = learner.batches(0, 0)
    seen: Counter[tuple[str, int]] = Counter()
    for step in batches:
        for part in step.parts:
            seen.update(
                (step.tasks[s.task].handle.task, step.tasks[s.task].samples[s.at]) for s in part
            )
    assert steps == STEPS
    assert set(seen.values()) == {1}
    assert Counter(task for task, _ in seen) == {"disk": 12, "square": 12}


def test_an_epoch_goes_on_behind_the_steps_that_are_done(root: Path) -> None:
    """A run that is killed inside an epoch takes the other batches, in their order."""
    learner = training(experiment(root))
    whole = [step.parts for step in learner.batches(1, 0)[1]]
    assert [step.parts for step in learner.batches(1, 2)[1]] == whole[2:]


def test_latents_are_those_of_each_sample_in_its_own_task(root: Path) -> None:
    """A joined batch mixes tasks, whose latents are kept apart."""

    class Numbered:
        def __init__(self, chosen: ChosenExpressions) -> None:
            self.task = 0 if chosen.handle.task == "disk" else 1

        def take(self, samples: Sequence[int], epoch: int) -> torch.Tensor:
            return torch.tensor([[self.task, sample, epoch] for sample in samples])

    learner = training(experiment(root))
    learner.latents_of = Numbered
    for step in learner.batches(1, 0)[1]:
        for part in step.parts:
            expected = [[s.task, step.tasks[s.task].samples[s.at], 1] for s in part]
            found = learner._latents(step, part)
            assert found is not None
            assert found.tolist() == expected


def test_a_loss_that_is_no_number_names_the_images(root: Path) -> None:
    """Recalls of NaN weights would look like a method that finds nothing."""
    learner = training(experiment(root))
    with torch.no_grad():
        next(iter(learner.parameters.values())).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"images here: (disk|square) \d+.*learning_rate"):
        trained(learner)


def test_a_task_that_does_not_fill_a_batch_has_a_smaller_one(root: Path) -> None:
    """An epoch of no step would leave the task as it was, and call it learned."""
    small, by_hand = (
        training(experiment(root, f"stage.batch_size={size}", "stage.small_tasks=shrink"))
        for size in (1024, EXPRESSIONS)
    )
    rows = trained(small)
    assert [row.pop("batch_size") for row in rows] == [EXPRESSIONS, EXPRESSIONS]
    assert rows == trained(by_hand)
