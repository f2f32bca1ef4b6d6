"""Checks of a whole sweep: whatever is wrong with it is one line before the first trial."""

from pathlib import Path

import pytest

from system.errors import ConfigError
from tests.integration.small_stream import overrides, prepare_small_stream
from tuning.run.sweep_checks import check_sweep
from tuning.search.sweep_plan import SweepPlan

ALIGN, CONTRAST = "method.layer_alignment.weight", "method.task_contrast.weight"
SPACE = (
    "space:{method:{rank:{choice:[1,2,4]},layer_alignment:{weight:{loguniform:[0.01,1]}},"
    "task_contrast:{weight:{choice:[0.0,0.1,1.0]}}}},search:random,samples:5"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    prepare_small_stream(root)
    return root


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("learning_rates:{lip:[0.1]}", r"tune\.learning_rates\.lip: no method of that name"),
        ("grace_tasks:9", r"tune\.grace_tasks=9: a stream of 3 tasks ends before"),
    ],
)
def test_an_option_without_effect_is_refused(prepared: Path, tune: str, message: str) -> None:
    """A misspelt method would learn at the default rate, a late scheduler stop nobody."""
    with pytest.raises(ConfigError, match=message):
        check_sweep(SweepPlan.compose(overrides(prepared, "s", f"+tune={{scheduler:asha,{tune}}}")))


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("cluster.gpu=false", r"trials_per_gpu=4 has no GPU to share: set cluster\.gpu=true"),
        ("cluster.gpu=true", r"cluster\.workers=2: .*set cluster\.workers=0"),
    ],
)
def test_a_card_that_cannot_be_shared_is_refused(cluster: str, message: str) -> None:
    """The trials would run one after the other, or stop in NCCL once they are connected."""
    overrides = [f"+tune={{{SPACE},trials_per_gpu:4}}", "cluster.workers=2", cluster]
    with pytest.raises(ConfigError, match=message):
        check_sweep(SweepPlan.compose(overrides))


def test_a_sweep_does_not_move_into_a_runs_directory(tmp_path: Path) -> None:
    """Its report would replace the run's."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "config.yaml").write_text("run_name: s\n")
    with pytest.raises(ConfigError, match="run_name='s' is a run in"):
        check_sweep(
            SweepPlan.compose([f"+tune={{{SPACE}}}", "run_name=s", f"storage_path={tmp_path}"])
        )


@pytest.mark.parametrize(
    ("keys", "more", "message"),
    [
        ((ALIGN,), ",every:3", r"pbt\.every=3: a stream of 3 tasks ends before .* use 1 to 2"),
        (("method.rank",), "", r"pbt\.keys: method\.rank takes no list of values.*rank=\[4, 4\]"),
        ((ALIGN, CONTRAST), "", None),
    ],
)
def test_an_impossible_population_is_refused(
    prepared: Path, keys: tuple[str, ...], more: str, message: str | None
) -> None:
    tune = f"+tune={{{SPACE},scheduler:pbt,pbt:{{keys:[{','.join(keys)}]{more}}}}}"
    made = SweepPlan.compose(overrides(prepared, "s", tune))
    if message is None:
        assert len(check_sweep(made)) == 3
    else:
        with pytest.raises(ConfigError, match=message):
            check_sweep(made)


def test_a_population_of_one_is_refused(prepared: Path) -> None:
    tune = f"+tune={{{SPACE},scheduler:pbt,pbt:{{keys:[{ALIGN}]}}}}"
    with pytest.raises(ConfigError, match="population of 1 has nothing"):
        check_sweep(SweepPlan.compose(overrides(prepared, "s", tune, "tune.samples=1")))
