"""All tasks learned as one on a frozen grounder, judged on several splits, in this process."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system import app
from system.config.compose import compose
from system.errors import ConfigError, DataError, PromptideError
from system.report.pages.run_page import write_report
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import check_experiment, prepared
from tests.diff_prompt.mask_files import TASKS, prepare_shapes
from tests.integration.in_process import learn_experiment
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec
from tests.integration.small_stream import adapters, figures
from tests.report.page_reader import PageReader
from tuning.run.stream_trial import StreamTrials

SPLITS = "evaluation.split=[val,test]"
LPI = ("method=lpi", "method.prompt_length=4")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("joined")
    prepare_small_rec(root)
    return root


def learn(root: Path, name: str, *more: str) -> dict[str, Any]:
    experiment = compose(joined_overrides(root, name, "cluster.workers=0", *more))
    check_experiment(experiment)
    return learn_experiment(experiment)


@pytest.fixture(scope="module")
def metrics(root: Path) -> dict[str, Any]:
    """Of LPI, which has a router where tasks are apart."""
    return learn(root, "lpi", SPLITS, *LPI)


def test_one_task_is_learned_and_every_split_is_judged(root: Path, metrics: dict[str, Any]) -> None:
    """Averages are over all expressions of the leading split; the others stand apart."""
    assert metrics["tasks"] == ["all"]
    assert metrics["replayed_rows"] == 0
    assert metrics["routing"] is None
    assert metrics["evaluation"]["split"] == ["val", "test"]
    assert metrics["average"] == metrics["splits"]["val"]["all"]
    assert metrics["zero_shot"]["average"] == metrics["zero_shot"]["splits"]["val"]["all"]
    for apart in (metrics["splits"], metrics["zero_shot"]["splits"]):
        assert list(apart) == ["val", "test"]
        assert set(apart["test"]["per_task"]) == set(TASKS)
    assert "forgetting.rec_r1" in metrics["undefined"]
    assert {(i, j) for i, j, metric in figures(root, "lpi") if metric == "rec_r1"} == {
        (-1, 0),
        (0, 0),
    }
    start = learn(root, "start", SPLITS, *LPI, "stage.optimiser.learning_rate=1e-12")
    assert start["trainable_parameters"] == metrics["trainable_parameters"] > 0
    assert adapters(root, "start") != adapters(root, "lpi"), "nothing was learned"


def test_neither_features_nor_a_router_are_made(root: Path, metrics: dict[str, Any]) -> None:
    """A task alone needs none: they would take as long as an evaluation."""
    (adapter,) = adapters(root, "lpi")
    assert not any(name.startswith("router") for name in adapter)
    assert not (root / "features").exists()


def test_nothing_learned_is_the_frozen_grounder(root: Path) -> None:
    found = learn(root, "zero", SPLITS, "method=zero_shot")
    assert found["splits"] == found["zero_shot"]["splits"]
    assert found["trainable_parameters"] == 0


def test_saved_adapters_give_the_row_again(root: Path, metrics: dict[str, Any]) -> None:
    experiment = compose(joined_overrides(root, "lpi", "cluster.workers=0", SPLITS, *LPI))
    rows = figures(root, "lpi")
    for row in evaluate_adapters(experiment, prepared(experiment)).rows:
        assert rows[row.trained_index, row.evaluated_index, row.metric] == row.value


def test_the_page_shows_each_split_before_and_after(root: Path, metrics: dict[str, Any]) -> None:
    page = PageReader.of(write_report(root / "runs" / "lpi"))
    for split in ("val", "test"):
        before, after = (
            apart[split]["per_task"]["disk"]["rec_ub"]
            for apart in (metrics["zero_shot"]["splits"], metrics["splits"])
        )
        assert page.row(f"split-{split}", "disk")[-1] == f"{before:.1f} → {after:.1f}"
    examples = pq.read_table(root / "runs" / "lpi" / "box_examples.parquet").to_pylist()
    assert {row["task"] for row in examples} == set(TASKS)


def test_a_rate_is_chosen_on_the_first_task_with_as_many_expressions(root: Path) -> None:
    """A short run with fewer would choose a rate for another length of training."""
    limits = ("stage.train_expressions=10", "evaluation.expressions=2")
    experiment = compose(joined_overrides(root, "rate", *limits, *LPI))
    choice = StreamTrials().rate_choice(experiment, 1)
    assert choice is not None
    assert (choice.tasks, choice.joined) == (("disk",), True)
    assert choice.overrides == (
        "evaluation.split=val",
        "stage.train_expressions=20",
        "evaluation.expressions=4",
    )
    both = StreamTrials().rate_choice(experiment, 2)
    assert both is not None
    assert len(both.tasks) == 2
    assert both.overrides[1:] == ("stage.train_expressions=10", "evaluation.expressions=2")
    with pytest.raises(ConfigError, match=r"tune\.rate_tasks=3, but the stream has 2 tasks"):
        StreamTrials().rate_choice(experiment, 3)


@pytest.mark.parametrize(
    ("overrides", "error", "named"),
    [
        (["evaluation.split=[test,train]"], ConfigError, "what tasks learn from"),
        (["evaluation.split=[test,test]"], ConfigError, "none twice"),
        (["evaluation.split=[]"], ConfigError, "at least one"),
        (["evaluation.split=[test,testB]"], ConfigError, "testB"),
        (["stage.batch_size=32"], DataError, "24 training expressions"),
        (["benchmark.order=reversed"], ConfigError, "order=reversed"),
        (["stream.live=true"], ConfigError, "live=true and joined=true"),
        (["stage.objective=retrieval", "method=lora"], ConfigError, "stage.objective=grounding"),
        (["benchmark.tasks=[disk,circle]"], DataError, "circle"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(
    root: Path, overrides: list[str], error: type[PromptideError], named: str
) -> None:
    with pytest.raises(error, match=named):
        check_experiment(compose([*joined_overrides(root, "wrong"), *overrides]))


def test_an_expression_of_a_box_without_area_does_not_end_the_run(
    root: Path, tmp_path: Path
) -> None:
    prepare_shapes(tmp_path, boxless=3)
    run = replace(compose(joined_overrides(root, "boxless")), data_path=str(tmp_path))
    check_experiment(run)


def test_old_keys_and_files_of_stage_3_are_refused_in_one_line(
    root: Path, metrics: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a model's stage before: what it left cannot be read as a stream's."""
    old = Path(shutil.copytree(root / "runs" / "lpi", tmp_path / "old"))
    (old / "metrics.json").write_text(json.dumps({"stage": "alignment", "rec_r1": 1.0}))
    header = json.loads((old / "adapters" / "adapter.json").read_text())
    header |= {"tasks": list(TASKS), "router": {}}
    (old / "adapters" / "adapter.json").write_text(json.dumps(header))
    config = tmp_path / "config.yaml"
    config.write_text("stage: {name: alignment, epochs: 1}\nrun_name: old\n")
    here = [*joined_overrides(root, "old", *LPI), f"storage_path={tmp_path}"]
    for arguments, named in (
        (["report", *here], "stage=alignment"),
        (["evaluate", *here], "joined"),
        (["run", "--config", str(config)], "stage.name=alignment"),
    ):
        assert app.main(arguments) == 2
        told = capsys.readouterr().err
        assert named in told
        assert len(told.strip().splitlines()) == 1
