"""Stage 3 learns the same on any number of workers, resumes to the bit, and is judged by boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.engine.epochs import DivergedError
from system.engine.model_stage import MODEL_STAGES, fit, model_experiment, show_nothing
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError, DataError
from system.objectives.grounding.alignment.alignment_checkpoint import ModelCheckpoint
from system.objectives.grounding.alignment.alignment_files import RESULT, load_result
from system.objectives.grounding.alignment.alignment_plan import AlignmentExperiment, AlignmentPlan
from system.objectives.grounding.alignment.alignment_training import AlignmentTraining
from system.storage.adapters import AdapterFolder
from system.storage.files import Folder
from tests.diff_prompt.mask_files import prepare_shapes
from tests.engine.thread_group import ALONE, on_threads
from tests.grounders.small_grounding_dino import write_small_grounding_dino

STEPS = 3  # 24 expressions in batches of 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared benchmark, and a small random Grounding DINO."""
    root = tmp_path_factory.mktemp("alignment")
    prepare_shapes(root)
    write_small_grounding_dino(root / "dino")
    return root


def experiment(root: Path, method: str = "vpt", **stage: Any) -> AlignmentExperiment:
    settings = {"name": "alignment", "epochs": 2, "batch_size": 8, "learning_rate": 0.01}
    parsed = model_experiment(
        {
            "run_name": "rec",
            "storage_path": str(root / "runs"),
            "data_path": str(root),
            "seed": 0,
            "benchmark": {"name": "shapes", "dataset": "coco", "options": {}},
            "grounder": {"name": "grounding_dino", "path": str(root / "dino")},
            "method": {"name": method},
            "stage": settings | stage,
            "cluster": {
                "address": None,
                "workers": 0,
                "cpus_per_worker": 1,
                "gpu": False,
                "max_failures": 0,
            },
            "backbone": {"name": "clip", "path": "shipped:tiny_clip"},  # of other runs
        }
    )
    assert isinstance(parsed, AlignmentExperiment)
    return parsed


def training(run: AlignmentExperiment, group: WorkerGroup = ALONE) -> AlignmentTraining:
    plan = AlignmentPlan.of(run)
    return AlignmentTraining(
        plan.settings,
        plan.grounder,
        plan.method(),
        list(plan.expressions("train").values()),
        group,
        seed=run.seed,
        digest="d",
        show=show_nothing,
    )


def finish(learner: AlignmentTraining) -> AlignmentTraining:
    while not learner.done:
        for _ in learner.epoch():
            pass
    return learner


def assert_same(first: AlignmentTraining, second: AlignmentTraining) -> None:
    assert first.log == second.log
    for name, parameter in first.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_two_workers_learn_what_one_learns_to_the_bit(root: Path) -> None:
    """And the loss falls: a method that stands still would pass the first part."""
    run = experiment(root, micro_batches=4)
    alone = finish(training(run))
    assert alone.log[0]["steps"] == STEPS
    for other in on_threads(2, lambda group: finish(training(run, group))):
        assert_same(alone, other)
    assert alone.log[1]["loss"] < alone.log[0]["loss"]


def test_a_resumed_training_ends_with_the_same_bits(root: Path, tmp_path: Path) -> None:
    """Killed in the middle of an epoch: a run would otherwise report other figures."""
    run = experiment(root, checkpoint_steps=1)
    whole, killed = finish(training(run)), training(run)
    steps = killed.epoch()
    next(steps)
    next(steps)
    killed.state().write(Folder.of(tmp_path))
    state = ModelCheckpoint.read(Folder.of(tmp_path))
    assert state is not None
    resumed = training(run)
    resumed.restore(state)
    assert_same(whole, finish(resumed))
    assert resumed.seconds > killed.seconds


def test_a_loss_that_is_no_number_ends_the_training(root: Path) -> None:
    """Figures of NaN weights would look like a method that finds nothing."""
    learner = training(experiment(root))
    with torch.no_grad():
        next(iter(learner.parameters.values())).fill_(float("nan"))
    with pytest.raises(DivergedError, match="learning_rate"):
        finish(learner)


def test_the_digest_is_of_what_decides_the_result_and_of_nothing_else(root: Path) -> None:
    """One that forgets a setting hands out what was learned with another."""
    base = experiment(root)
    plan = AlignmentPlan.of(base)
    cluster = replace(base.cluster, workers=2)
    same = [
        replace(base, run_name="other", cluster=cluster),
        experiment(root, checkpoint_steps=7, loader_threads=2),
    ]
    others = [
        replace(base, seed=1),
        replace(base, method={"name": "vpt", "prompt_length": 3}),
        replace(base, benchmark=replace(base.benchmark, tasks=("disk",))),
        experiment(root, "coop"),
        experiment(root, epochs=3),
        experiment(root, splits=["val"]),
    ]
    assert {AlignmentPlan.of(run).digest for run in same} == {plan.digest}
    assert len({plan.digest, *(AlignmentPlan.of(run).digest for run in others)}) == 7


@pytest.mark.parametrize(
    ("method", "change", "named"),
    [
        ("vpt", {"epoch": 3}, "epoch"),
        ("vpt", {"batch_size": 9}, "batch_size=9"),
        ("vpt", {"splits": ["train"]}, "what the method learns from"),
        ("vpt", {"splits": ["testA"]}, "no split 'testA'"),
        ("vpt", {"batch_size": 64}, "24 expressions"),
        ("l2p", {}, "retrieval"),
        ("vtp", {}, "vpt"),
        ("diff_prompt", {}, "generator"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(
    root: Path, method: str, change: dict[str, Any], named: str
) -> None:
    run = experiment(root, method, **change)
    with pytest.raises((ConfigError, DataError), match=named):
        MODEL_STAGES.get("alignment").finished(run)


def test_more_workers_than_micro_batches_are_refused(root: Path) -> None:
    run = experiment(root)
    crowded = replace(run, cluster=replace(run.cluster, workers=3))
    with pytest.raises(ConfigError, match="micro_batches=2"):
        AlignmentPlan.of(crowded)


def test_an_expression_without_a_box_is_named(root: Path, tmp_path: Path) -> None:
    prepare_shapes(tmp_path, boxless=3)
    run = replace(experiment(root), data_path=str(tmp_path))
    with pytest.raises(DataError, match=r"3\.png.*without area"):
        MODEL_STAGES.get("alignment").finished(run)


def test_a_run_without_a_grounder_says_which_to_choose(root: Path) -> None:
    with pytest.raises(ConfigError, match="grounder=tiny_grounder"):
        replace(experiment(root), grounder=None)


@pytest.mark.ray
def test_the_stage_trains_reports_and_is_found_again(root: Path, ray_local: None) -> None:
    """From a command's config to metrics.json, the adapter and the page."""
    run = experiment(root, splits=["val", "test"])
    stage = MODEL_STAGES.get("alignment")
    assert not stage.finished(run)
    assert not stage.before(run)
    fit(run, stage)
    assert stage.finished(replace(run, run_name="again"))
    told: list[str] = []
    stage.report(run, told.append)
    folder = root / "runs" / "rec"
    metrics = json.loads((folder / "metrics.json").read_text())
    result = load_result(AlignmentPlan.of(run).folder)
    assert metrics["rec_r1"] == result.trained["val"]["all"]["rec_r1"]
    assert set(metrics["splits"]) == set(metrics["zero_shot"]["splits"]) == {"val", "test"}
    assert set(metrics["splits"]["test"]["per_task"]) == {"disk", "square"}
    assert metrics["splits"]["val"]["expressions"] == 6
    assert metrics["trainable_parameters"] == 8 * (16 + 16 + 32 + 64)
    assert set(metrics["wall_seconds"]) >= {"zero_shot", "train", "evaluate"}
    learned = AdapterFolder(Folder.of(folder / "adapters"))
    assert learned.header().method == {"name": "vpt"}
    method = AlignmentPlan.of(run).method()
    changed = [
        not torch.equal(parameter, learned.task(0)[name])
        for name, parameter in method.named_parameters()
    ]
    assert all(changed)
    page = (folder / "report.html").read_text()
    assert page.count("<figure>") == 6
    assert "the disk" in page
    assert any("R@1" in line for line in told)


@pytest.mark.ray
def test_a_method_that_learns_nothing_is_the_frozen_grounder(root: Path, ray_local: None) -> None:
    """Zero-shot figures, found by whichever run was first, serve all the others."""
    run = replace(experiment(root, "zero_shot"), run_name="zero")
    stage = MODEL_STAGES.get("alignment")
    fit(run, stage)
    stage.report(run, lambda _: None)
    plan = AlignmentPlan.of(run)
    result = load_result(plan.folder)
    assert plan.folder.exists(RESULT)
    assert result.trained == result.zero_shot
    assert (result.trainable_parameters, result.log) == (0, ())
    assert len(plan.zero_shot_store.folder.names()) >= 2
