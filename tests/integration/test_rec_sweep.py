"""A sweep over streams of boxes whose method builds on a diffusion model that all trials share."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.cli.sweep import sweep
from system.config.compose import compose
from system.errors import ConfigError
from tests.diff_prompt.generator_parts import STAGE
from tests.integration.small_rec_stream import prepare_small_rec, rec_overrides
from tests.integration.small_stream import adapters, figures
from tests.report.page_reader import PageReader
from tuning.run.sweep_checks import check_sweep
from tuning.search.sweep_plan import SweepPlan

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TUNE = (
    "+tune={metric:[rec_r1],search:grid,max_concurrent:2,scheduler:none,seeds:[0],"
    "space:{method:{low_rank:{rank:{grid:[1,2]}},steps:{grid:[5]}}}}"
)


def joined(root: Path, name: str, *more: str) -> list[str]:
    """The join with a generator as small as its tests' own."""
    generator = json.dumps(STAGE | {"seed": 0}).replace('"', "")
    return rec_overrides(
        root,
        name,
        "method=lpi_diff_prompt",
        f"method.generator={generator}",
        "method.prompt_length=2",
        "method.depth=2",
        "method.low_rank.prompt_length=4",
        "cluster.workers=0",
        "stage.epochs=1",
        *more,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("joined")
    prepare_small_rec(root)
    return root


def test_trials_share_the_generator_and_are_compared_by_boxes(root: Path, ray_local: None) -> None:
    """`best.yaml` then gives its trial's figures to the bit, and finds the generator too."""
    sweep(joined(root, "swept", TUNE), None, Console(quiet=True))
    folder = root / "runs" / "swept"
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    for row in rows:
        assert row["figure"] == pytest.approx(row["average_rec_r1"])
        assert row["trainable_parameters"] > 0
    assert len({row["trainable_parameters"] for row in rows}) == 2
    made = sorted(model.name.partition("-")[0] for model in (root / "models").iterdir())
    assert made == ["mask_vae", "prompt_generator"], "trials trained it more than once"
    page = PageReader.of(folder / "report.html")
    headers = page.tables["comparison"][0]
    assert headers[:4] == ["trial config", "sharing", "rec R@1", "rec forgetting"]
    best = folder / "best.yaml"
    rank = compose([], str(best)).method["low_rank"]["rank"]
    carry_out(compose(["run_name=again"], str(best)), Console(quiet=True))
    trial = f"swept/trials/swept-lpi_diff_prompt-{[1, 2].index(rank):03d}-seed0"
    assert figures(root, "again") == figures(root, trial)
    assert adapters(root, "again") == adapters(root, trial)


def test_a_fork_on_a_grounder_equals_a_run_from_scratch(root: Path, ray_local: None) -> None:
    """A population over boxes: a forked trial's config repeats it, to the bit."""
    key = "method.low_rank.layer_alignment.weight"
    low_rank = "layer_alignment:{weight:{loguniform:[0.01,1]}}"
    tune = (
        "+tune={metric:[rec_r1],search:random,samples:2,scheduler:pbt,max_concurrent:2,"
        f"pbt:{{keys:[{key}],resample:0}},space:{{method:{{low_rank:{{{low_rank}}}}}}}}}"
    )
    steps = "method.steps=5"
    sweep(joined(root, "population", steps, tune), None, Console(quiet=True))
    rows = pq.read_table(root / "runs" / "population" / "trials.parquet").to_pylist()
    fork = rows[-1]
    assert sorted(row["status"] for row in rows) == ["finished", "finished", "stopped"]
    assert (fork["status"], fork["forked_after"]) == ("finished", 1)
    weights = json.loads(fork["values"])[key]
    assert weights[-1] != weights[-2]
    carry_out(compose(joined(root, "scratch", steps, f"{key}={weights}")), Console(quiet=True))
    trial = f"population/trials/{fork['trial']}"
    assert figures(root, "scratch") == figures(root, trial)
    assert adapters(root, "scratch") == adapters(root, trial)


def test_the_model_beneath_is_checked_before_the_first_trial(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"swept|epochs"):
        check_sweep(SweepPlan.compose(joined(root, "wrong", TUNE, "method.generator.epochs=0")))
