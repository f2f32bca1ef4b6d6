"""A stream of referring expressions in this process: learned, resumed, saved, judged, reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.config.compose import compose
from system.engine.epochs import EpochLoop
from system.errors import ConfigError, DataError, PromptideError
from system.grounders.glip.glip import load_glip
from system.report.pages.evaluation_page import write_evaluation_report
from system.report.pages.run_page import write_report
from system.stream.evaluate_adapters import evaluate_adapters, evaluated_on
from system.stream.evaluation_results import write_evaluation
from system.stream.learned_state import LearnedState
from system.stream.preflight import check_experiment, prepared
from tests.diff_prompt.mask_files import TASKS
from tests.integration.in_process import learn_experiment
from tests.integration.small_rec_stream import prepare_small_rec, rec_overrides
from tests.integration.small_stream import adapters, figures
from tests.report.page_reader import PageReader

METHODS = ("zero_shot", "s_prompts", "vpt", "clip_adapter", "ewc")
BOTH = ("method.interaction.depth=null", "method.prompt_length=4", "method.task_start=own")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rec")
    prepare_small_rec(root)
    return root


def learn(root: Path, name: str, *more: str) -> dict[str, Any]:
    experiment = compose(rec_overrides(root, name, "cluster.workers=0", *more))
    check_experiment(experiment)
    return learn_experiment(experiment)


@pytest.fixture(scope="module")
def metrics(root: Path) -> dict[str, Any]:
    """Of LPI with interaction, undisturbed."""
    return learn(root, "lpi", *BOTH)


def test_the_figures_are_those_of_boxes(metrics: dict[str, Any], root: Path) -> None:
    """Each task before, after each one learned, and with the true task given; nothing replayed."""
    assert metrics["tasks"] == list(TASKS)
    assert metrics["replayed_rows"] == 0
    assert metrics["evaluation"]["expressions"] == 6
    assert set(metrics["average"]) == set(metrics["oracle"]["average"])
    assert {"rec_r1", "rec_r5", "rec_r10", "rec_ub", "rec_r1_giou"} <= set(metrics["average"])
    assert set(metrics["routing"]) == {"image", "image_average"}
    rows = figures(root, "lpi")
    assert {(i, j) for i, j, metric in rows if metric == "rec_r1"} == {
        (i, j) for i in (-1, 0, 1) for j in (0, 1)
    }
    learned = adapters(root, "lpi")
    assert len(learned) == 2
    start = learn(root, "lpi-start", *BOTH, "stage.optimiser.learning_rate=1e-12")
    assert start["trainable_parameters"] == metrics["trainable_parameters"] > 0
    assert adapters(root, "lpi-start") != learned, "nothing was learned"


@pytest.mark.parametrize(("task", "epoch", "step"), [(0, 2, 0), (1, 2, 0), (1, 1, 1)])
def test_a_run_that_stops_inside_a_task_ends_with_the_same_bits(
    root: Path,
    metrics: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    task: int,
    epoch: int,
    step: int,
) -> None:
    """It goes on from the last checkpoint, in a process that knows nothing of the first."""
    name = f"stopped-{task}-{epoch}-{step}"
    save = EpochLoop.save
    stops = (task, epoch, step)

    def stop(loop: EpochLoop) -> None:
        save(loop)
        if (loop.training.origin["index"], loop.position.epoch, loop.position.step) == stops:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpochLoop, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(root, name, *BOTH, "stage.checkpoint_steps=1")
    again = learn(root, name, *BOTH, "stage.checkpoint_steps=1")
    assert adapters(root, name) == adapters(root, "lpi")
    assert figures(root, name) == figures(root, "lpi")
    assert again["oracle"] == metrics["oracle"]
    assert again["replayed_rows"] == 0


def test_saved_adapters_give_the_last_row_again(root: Path, metrics: dict[str, Any]) -> None:
    experiment = compose(rec_overrides(root, "lpi", "cluster.workers=0", *BOTH))
    rows = figures(root, "lpi")
    for row in evaluate_adapters(experiment, prepared(experiment)).rows:
        key = (row.trained_index, row.evaluated_index, row.metric)
        assert rows[key] == row.value
    loaded = LearnedState.from_pretrained(
        root / "runs" / "lpi" / "adapters", load_glip(str(root / "glip"))
    )
    loaded.save_pretrained(root / "copy")
    again = LearnedState.from_pretrained(root / "copy", loaded.model)
    assert again.known_tasks == len(TASKS)
    for one, other in zip(loaded.method.parameters(), again.method.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_evaluation_of_saved_adapters_is_kept_as_the_run_s_own(
    root: Path, metrics: dict[str, Any]
) -> None:
    """Its files say what the run's say, and the run's stay as they were."""
    experiment = compose(rec_overrides(root, "lpi", "cluster.workers=0", *BOTH))
    before = (root / "runs" / "lpi" / "metrics.json").read_bytes()
    folder, found = write_evaluation(evaluated_on(experiment, prepared(experiment)))
    for key in ("average", "splits", "intervals", "queries"):
        assert found[key] == metrics[key], key
    for key in ("average", "per_task", "splits"):
        assert found["zero_shot"][key] == metrics["zero_shot"][key], key
    assert found["learned_on"] == {"benchmark": "shapes", "tasks": list(TASKS)}
    page = write_evaluation_report(folder).read_text()
    average, zero = (f"{m['average']['rec_r5']:.1f}" for m in (metrics, metrics["zero_shot"]))
    row = page.partition("box R@5</th>")[2].partition("</tr>")[0]
    assert row.index(f"<td>{zero}<") < row.rindex(f"<td>{average}<")
    assert "after training" in page
    assert (root / "runs" / "lpi" / "metrics.json").read_bytes() == before


def test_the_report_speaks_of_boxes(root: Path, metrics: dict[str, Any]) -> None:
    page = PageReader.of(write_report(root / "runs" / "lpi"))
    assert "Expression → box R@1" in page.text
    assert "Text → image" not in page.text
    assert "the best after training" in page.text
    assert page.text.count("Not available") == 1, "config.yaml, which `run` alone writes"
    zero, average = metrics["zero_shot"]["average"]["rec_r1"], metrics["average"]["rec_r1"]
    _, before, last, *_ = page.row("averages", "Expression → box R@1")
    assert before == f"{zero:.1f}"
    assert last.startswith(f"{average:.1f}")
    assert zero != average, "the two columns cannot be told apart"


@pytest.mark.parametrize("method", METHODS)
def test_methods_for_a_grounder_learn_the_stream_too(root: Path, method: str) -> None:
    """To compare: prompts of each task's own, one set for all in turn, and nothing."""
    short = {
        "s_prompts": ["method.prompt_length=2", "method.text_prompt_length=2"],
        "vpt": ["method.prompt_length=2"],
    }.get(method, [])
    found = learn(root, method, f"method={method}", "stage.epochs=1", *short)
    assert found["replayed_rows"] == 0
    assert found["method"] == method
    assert (found["routing"] is not None) == (method == "s_prompts")
    assert (found["trainable_parameters"] == 0) == (method == "zero_shot")
    if method == "zero_shot":
        assert found["average"] == found["zero_shot"]["average"]


@pytest.mark.parametrize(
    ("overrides", "error", "named"),
    [
        (["stage.objective=groundin"], ConfigError, "did you mean 'grounding'"),
        (["protocol=released"], ConfigError, "protocol=released has"),
        (["inputs.resize=squeeze"], ConfigError, "a grounder has its own transform"),
        (["stage.augmentation=crop_flip"], ConfigError, "stage.augmentation"),
        (["stage.batch_size=16"], DataError, "12 training expressions"),
        (["method=dualprompt"], ConfigError, "retrieval"),
        (["method.prompt_depth=9"], ConfigError, "prompt_depth=9"),
        (["method.interaction.depth=3"], ConfigError, "interaction.depth=3"),
        (["evaluation.expressions=0"], ConfigError, "expressions=0"),
        (["stage.train_expressions=0"], ConfigError, "train_expressions=0"),
        (["stream.live=true", "evaluation.split=testB"], ConfigError, "testB"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(
    root: Path, overrides: list[str], error: type[PromptideError], named: str
) -> None:
    with pytest.raises(error, match=named):
        check_experiment(compose([*rec_overrides(root, "wrong"), *overrides]))


def test_a_stream_of_boxes_without_a_grounder_is_refused(root: Path) -> None:
    experiment = replace(compose(rec_overrides(root, "wrong")), grounder=None)
    with pytest.raises(ConfigError, match="grounder=tiny_grounder"):
        check_experiment(experiment)
