"""A sweep that compares methods on a grounder: each at its own learning rate, in one table."""

import json
from itertools import takewhile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.sweep import sweep
from system.errors import ConfigError
from tests.diff_prompt.mask_files import prepare_shapes
from tests.grounders.small_grounding_dino import write_small_grounding_dino
from tuning.run.learning_rates import rate_trials
from tuning.search.sweep_plan import SweepPlan


def overrides(root: Path, *more: str) -> list[str]:
    return [
        "experiment=rec_compare",
        "grounder=grounding_dino",
        f"grounder.path={root / 'dino'}",
        "benchmark.name=shapes",
        "benchmark.tasks=[disk,square]",
        f"storage_path={root / 'runs'}",
        f"data_path={root}",
        "run_name=compare",
        "stage.batch_size=8",
        "tune.only=[zero_shot,vpt]",
        "tune.seeds=[0,1]",
        "tune.learning_rates={default:[0.001,0.01]}",
        *more,
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_shapes(tmp_path)
    write_small_grounding_dino(tmp_path / "dino")
    return tmp_path


def test_rates_are_chosen_on_the_first_tasks_validation_split_alone(root: Path) -> None:
    """A rate chosen on the test split would flatter the method; zero-shot has none to choose."""
    (entry,) = rate_trials(SweepPlan.compose(overrides(root)))
    assert entry.base.label == "vpt"
    assert sorted(entry.trials) == [0.001, 0.01]
    for rate, trial in entry.trials.items():
        values = trial.experiment.to_dict()
        stage = values["stage"]
        assert stage["optimiser"]["learning_rate"] == rate
        assert values["evaluation"]["split"] in ("val", ("val",))
        assert list(trial.experiment.benchmark.tasks or ()) == ["disk", "square"]
        # of as many tasks as there are here, and so of as many steps
        assert stage["train_expressions"] == 100


def test_a_metric_that_the_stage_has_not_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match="rec_r5"):
        SweepPlan.compose(overrides(root, "tune.metric=[rec_r2]"))


@pytest.mark.ray
@pytest.mark.slow
def test_methods_stand_in_one_table(root: Path, ray_local: None) -> None:
    sweep(overrides(root), None, Console(quiet=True))
    folder = root / "runs" / "compare"
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished"] * 4
    for row in rows:
        metrics = json.loads((folder / "trials" / row["trial"] / "metrics.json").read_text())
        assert row["method"] == metrics["method"]
        assert row["figure"] == metrics["average"]["rec_r1"]
        assert json.loads(row["shown"])["R@5"] == metrics["average"]["rec_r5"]
    chosen = json.loads((folder / "learning_rates.json").read_text())["methods"]
    assert set(chosen) == {"vpt"}
    assert chosen["vpt"]["tasks"] == ["disk", "square"]
    rates = {row["learning_rate"] for row in rows}
    assert rates == {None, chosen["vpt"]["chosen"]}
    table = (folder / "comparison.md").read_text().splitlines()
    assert table[0].startswith("| trial config | sharing | R@1 | R@5 | R@10 | any box |")
    rows_of_table = takewhile(bool, table[2:])  # what else there is stands below an empty line
    assert {line.split("|")[1].strip() for line in rows_of_table} == {"zero_shot", "vpt"}
