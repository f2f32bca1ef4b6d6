"""Benchmarks that are evaluated after every task and never trained, on both objectives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.drive import Run, fit
from actors.stream_run import StreamRun
from system import app
from system.config.compose import compose, composed_values
from system.config.schema import ExperimentConfig
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.shard_reader import SplitReader
from system.engine.contents import contents_of
from system.engine.epochs import EpochLoop
from system.engine.model_stage import model_experiment
from system.errors import ConfigError, DataError, PromptideError
from system.report.metrics_view import MetricsView
from system.report.pages.held_out import held_out_lines
from system.report.pages.run_page import write_report
from system.results.accuracy_matrix import AccuracyMatrix
from system.storage.run_directory import matrix_columns
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import check_experiment, prepared
from tests.data.coco_files import prepare_coco, write_coco
from tests.diff_prompt.mask_files import prepare_shapes
from tests.integration.in_process import learn_experiment
from tests.integration.small_rec_stream import (
    joined_overrides,
    prepare_small_rec,
    rec_overrides,
)
from tests.integration.small_stream import (
    TASKS,
    adapters,
    figures,
    overrides,
    prepare_small_stream,
    small_experiment,
)
from tests.integration.test_continual_diff_prompt import METHOD as LATENT_METHOD
from tests.report.page_reader import PageReader

OTHERS = ("museum", "zoo")
FEW = ("cluster.workers=0", "stage.epochs=1", "evaluation.router_centers=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small stream, a benchmark with other images, and one without a test split."""
    root = tmp_path_factory.mktemp("held_out")
    prepare_small_stream(root)
    museum = write_coco(root / "museum", {"train": 2, "val": 3, "test": 9}, OTHERS, (24, 16))
    prepare_coco(museum, str(root / "data" / "museum"))
    untested = write_coco(root / "untested", {"train": 2}, OTHERS, (22, 16))
    prepare_coco(untested, str(root / "data" / "untested"))
    # Its test images are the first training images of the small stream.
    copied = write_coco(root / "copied", {"test": 4}, OTHERS)
    prepare_coco(copied, str(root / "data" / "copied"))
    return root


def _run(root: Path, name: str, *more: str) -> dict[str, Any]:
    experiment = small_experiment(root, name, *FEW, *more)
    check_experiment(experiment)
    return learn_experiment(experiment)


@pytest.fixture(scope="module")
def metrics(root: Path) -> dict[str, Any]:
    return _run(root, "with", "benchmark.held_out=[museum]")


def test_a_benchmark_is_evaluated_before_and_after_each_task(
    metrics: dict[str, Any], root: Path
) -> None:
    found = metrics["held_out"]["museum"]
    assert (found["split"], found["images"]) == ("test", 18)
    assert list(found["after"]) == list(TASKS)
    for metric, value in found["zero_shot"].items():
        last = found["after"][TASKS[-1]][metric]
        assert found["retention"][metric] == pytest.approx(last - value)
    table = pq.read_table(root / "runs" / "with" / "accuracy_matrix.parquet")
    records = matrix_columns(table)
    apart = AccuracyMatrix.from_columns([records], held_out=True)
    assert (apart.tasks, apart.evaluated) == (TASKS, ("museum",))
    assert {row.trained_index for row in apart.rows} == {-1, 0, 1, 2}
    assert not any(row.metric.startswith("route") for row in apart.rows)  # no route is right
    queries = {row.metric: row.queries for row in apart.rows}
    assert queries["i2t_r1"] == 18  # all tasks of the benchmark as one gallery
    assert apart.values("i2t_r1")[:, 0].tolist() == [
        found["after"][task]["i2t_r1"] for task in TASKS
    ]


def test_nothing_else_in_the_run_depends_on_it(metrics: dict[str, Any], root: Path) -> None:
    """It would not be held out if it moved a prompt, a route or a recall."""
    without = _run(root, "without")
    assert adapters(root, "with") == adapters(root, "without")
    rows = {
        name: AccuracyMatrix.from_columns(
            [matrix_columns(pq.read_table(root / "runs" / name / "accuracy_matrix.parquet"))]
        )
        for name in ("with", "without")
    }
    assert repr(rows["with"].rows) == repr(rows["without"].rows)
    assert "held_out" not in without
    for key in ("average", "zero_shot", "oracle", "routing", "task_similarity", "forgetting"):
        assert metrics[key] == without[key]


def test_a_training_split_of_it_is_never_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SplitHandle] = []
    plain = SplitReader.__init__

    def noted(self: SplitReader, handle: SplitHandle) -> None:
        opened.append(handle)
        plain(self, handle)

    monkeypatch.setattr(SplitReader, "__init__", noted)
    _run(root, "opened", "benchmark.held_out=[museum]", "benchmark.tasks=[animal]")
    shards = {shard.uri for handle in opened for shard in handle.shards}
    museum = Manifest.load(str(root / "data" / "museum"))
    of_split = {
        split: {shard.uri for task in museum.tasks for shard in task.splits[split]}
        for split in ("train", "test")
    }
    assert of_split["test"] <= shards
    assert not of_split["train"] & shards


def test_a_run_that_was_interrupted_goes_on_to_the_bit(
    metrics: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = EpochLoop.run

    def dies_at_the_last_task(self: EpochLoop) -> Any:
        log = run(self)
        if log and log[0]["task"] == TASKS[-1]:
            raise KeyboardInterrupt
        return log

    words = ("again", "benchmark.held_out=[museum]")
    monkeypatch.setattr(EpochLoop, "run", dies_at_the_last_task)
    with pytest.raises(KeyboardInterrupt):
        _run(root, *words)
    monkeypatch.undo()
    again = _run(root, *words)
    assert again["held_out"] == metrics["held_out"]
    assert figures(root, "again") == figures(root, "with")


def test_the_page_shows_what_is_left(metrics: dict[str, Any], root: Path) -> None:
    page = PageReader.of(write_report(root / "runs" / "with"))
    found = metrics["held_out"]["museum"]
    rows = page.tables["held-out-1"]
    assert [row[0] for row in rows[1:]] == [
        "zero-shot", *(f"after {task}" for task in TASKS), "last less zero-shot",
    ]  # fmt: skip
    assert rows[1][1] == f"{found['zero_shot']['t2i_r1']:.1f}"


def test_another_content_under_the_same_name_is_another_run(root: Path) -> None:
    """A run that went on with other held-out images would mix two measurements."""
    experiment = small_experiment(root, "x", "benchmark.held_out=[museum]")
    museum = Manifest.load(str(root / "data" / "museum"))
    assert contents_of(experiment)["benchmark.held_out.museum"] == museum.fingerprint


def _check(root: Path, *more: str) -> ExperimentConfig:
    experiment = small_experiment(root, "checked", *FEW, *more)
    check_experiment(experiment)
    return experiment


def test_the_run_s_own_split_is_taken_where_the_benchmark_has_it(root: Path) -> None:
    metrics = _run(
        root, "val", "benchmark.held_out=[museum]", "evaluation.split=val", "benchmark.tasks=[food]"
    )
    assert metrics["held_out"]["museum"]["split"] == "val"
    assert metrics["held_out"]["museum"]["images"] == 6


@pytest.mark.parametrize(
    ("words", "error", "named"),
    [
        (["benchmark.held_out=[flickr30k]"], DataError, "promptide prepare benchmark=flickr30k"),
        (["benchmark.held_out=[mine]"], DataError, "benchmark=GROUP benchmark.name=mine"),
        (["benchmark.held_out=[small]"], ConfigError, "'small' is the benchmark that is trained"),
        (["benchmark.held_out=[untested]"], ConfigError, "'untested' has no image in split test:"),
        (
            ["benchmark.held_out=[museum,museum]"],
            ConfigError,
            "names a benchmark twice",
        ),
        (
            ["benchmark.held_out=[museum,copied]"],
            DataError,
            r"3 of 8 images of 'copied' \('test_00000\d.png' is one\) have the bytes of "
            "training images of task 'animal'",
        ),
    ],
)
def test_what_cannot_be_held_out_is_refused_before_anything_starts(
    root: Path, words: list[str], error: type[PromptideError], named: str
) -> None:
    with pytest.raises(error, match=named):
        _check(root, *words)


def test_images_of_a_task_that_is_left_out_may_be_held_out(root: Path) -> None:
    """Of the copied images those of the other tasks do not matter."""
    with pytest.raises(DataError, match="'animal'"):
        _check(root, "benchmark.held_out=[copied]", "benchmark.tasks=[animal,food]")


def test_the_terminal_says_what_is_left(metrics: dict[str, Any]) -> None:
    (line,) = held_out_lines(MetricsView(json.loads(json.dumps(metrics))))
    assert line.startswith("held out: museum: t2i_r1 ")
    assert "at the end (" in line


def test_it_is_for_streams_alone() -> None:
    """A model's training has no tasks to evaluate it after."""
    values = composed_values(["experiment=mask_vae", "benchmark.held_out=[museum]"])
    with pytest.raises(ConfigError, match=r"benchmark.held_out=.*leave it \[\]"):
        model_experiment(values)


def test_it_is_off_in_every_benchmark_s_file() -> None:
    assert compose([]).benchmark.held_out == ()


def test_saved_adapters_are_evaluated_on_a_benchmark_they_were_not_learned_on(
    metrics: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tasks are the rows; over all of them it is what the run itself found at its end."""
    words = [
        *overrides(root, "with", *FEW), "benchmark.name=museum", "benchmark.tasks=null"
    ]  # fmt: skip
    experiment = compose(words)
    matrix = evaluate_adapters(experiment, prepared(experiment))
    assert (matrix.tasks, matrix.evaluated) == (TASKS, OTHERS)
    assert {row.trained_index for row in matrix.rows} == {-1, len(TASKS) - 1}
    found = metrics["held_out"]["museum"]
    for when, trained in ((found["zero_shot"], -1), (found["after"][TASKS[-1]], len(TASKS) - 1)):
        for metric in ("i2t_r1", "t2i_r5"):
            rows = [r for r in matrix.rows if (r.metric, r.trained_index) == (metric, trained)]
            mean = sum(r.value * r.queries for r in rows) / sum(r.queries for r in rows)
            assert when[metric] == pytest.approx(mean)

    assert app.main(["evaluate", *words]) == 0
    shown = capsys.readouterr().out
    assert "museum, split test" in shown
    assert "zoo, zero-shot" in shown
    assert f"learned on: {', '.join(TASKS)}" in shown


def test_a_benchmark_without_the_split_is_refused_for_saved_adapters(
    metrics: dict[str, Any], root: Path
) -> None:
    experiment = compose(
        [*overrides(root, "with", *FEW), "benchmark.name=untested", "benchmark.tasks=null"]
    )
    with pytest.raises(ConfigError, match="has no such split, only"):
        evaluate_adapters(experiment, prepared(experiment))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small grounding stream, a benchmark of other expressions, and one without any."""
    root = tmp_path_factory.mktemp("held_out_boxes")
    prepare_small_rec(root)
    museum = write_coco(root / "museum_files", {"train": 2, "val": 2, "test": 3}, OTHERS, (24, 16))
    prepare_coco(museum, str(root / "museum"))
    silent = {split: replace(files, refs=None) for split, files in museum.splits.items()}
    prepare_coco(replace(museum, splits=silent), str(root / "silent"))
    return root


def _learn_boxes(root: Path, name: str, *more: str, joined: bool = False) -> dict[str, Any]:
    short = ("method.prompt_length=2", "method.text_prompt_length=2")
    words = ("cluster.workers=0", "stage.epochs=1", "method=s_prompts", *short, *more)
    experiment = compose((joined_overrides if joined else rec_overrides)(root, name, *words))
    check_experiment(experiment)
    return learn_experiment(experiment)


@pytest.mark.parametrize("joined", [False, True])
def test_boxes_of_a_held_out_benchmark(shapes: Path, joined: bool) -> None:
    """The same on a grounder, whether its tasks come one by one or joined."""
    name = "joined" if joined else "rec"
    found = _learn_boxes(shapes, name, "benchmark.held_out=[museum]", joined=joined)
    museum = found["held_out"]["museum"]
    assert list(museum["after"]) == found["tasks"]
    assert {"rec_r1", "rec_ub", "rec_r1_giou"} <= set(museum["zero_shot"])
    table = pq.read_table(shapes / "runs" / name / "accuracy_matrix.parquet")
    apart = AccuracyMatrix.from_columns([matrix_columns(table)], held_out=True)
    assert {row.queries for row in apart.rows} == {12}  # two expressions an image
    plain = _learn_boxes(shapes, f"{name}-plain", joined=joined)
    assert adapters(shapes, name) == adapters(shapes, f"{name}-plain")
    assert plain["average"] == found["average"]

    overrides_of = joined_overrides if joined else rec_overrides
    words = overrides_of(shapes, name, "cluster.workers=0", "method=s_prompts")
    experiment = compose([*words, "benchmark.name=museum", "benchmark.tasks=null"])
    experiment = replace(experiment, stream=replace(experiment.stream, joined=False))
    matrix = evaluate_adapters(experiment, prepared(experiment))
    assert matrix.evaluated == OTHERS
    for metric, value in museum["after"][found["tasks"][-1]].items():
        rows = [r for r in matrix.rows if r.metric == metric and r.trained_index >= 0]
        mean = sum(r.value * r.queries for r in rows) / sum(r.queries for r in rows)
        assert value == pytest.approx(mean)


def test_a_benchmark_without_expressions_is_refused_where_boxes_are_learned(shapes: Path) -> None:
    with pytest.raises(DataError, match=r"held_out: 'silent': .*no expression"):
        _learn_boxes(shapes, "refused", "benchmark.held_out=[silent]")


def _train_before(experiment: ExperimentConfig) -> None:
    """The models that a stream's method builds on, in this process."""

    def train(run: Run) -> None:
        run.check()
        for earlier in run.before():
            train(earlier)
        if not run.finished:
            fit(run)

    for run in StreamRun(experiment).before():
        train(run)


def test_a_generator_serves_benchmarks_that_it_was_not_trained_on(shapes: Path) -> None:
    """RefCOCO's adapters on RefCOCO+ take latents of RefCOCO's generator; no other is trained."""
    prepare_shapes(shapes, name="known")  # one that says what it was prepared from
    words = [
        "cluster.workers=0",
        "stage.epochs=1",
        "benchmark.name=known",
        "benchmark.held_out=[museum]",
        "seed=3",
    ]
    experiment = compose(rec_overrides(shapes, "latents", *words))
    benchmark = replace(experiment.benchmark, dataset="coco", options={})
    experiment = replace(experiment, benchmark=benchmark, method=LATENT_METHOD)
    check_experiment(experiment)
    _train_before(experiment)
    models = sorted((shapes / "models").iterdir())
    found = learn_experiment(experiment)["held_out"]["museum"]
    museum = replace(benchmark, name="museum", tasks=None, held_out=())
    other = replace(experiment, benchmark=museum, seed=0)
    matrix = evaluate_adapters(other, prepared(other))
    for metric, value in found["after"]["square"].items():
        rows = [r for r in matrix.rows if r.metric == metric and r.trained_index >= 0]
        mean = sum(r.value * r.queries for r in rows) / sum(r.queries for r in rows)
        assert value == pytest.approx(mean)
    assert sorted((shapes / "models").iterdir()) == models
