"""The same command goes on with its run; another config never writes into it."""

from pathlib import Path

import pytest

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError, StorageError
from system.storage.run_directory import CONFIG, CONTENTS, SWEEP, RunDirectory


def experiment(root: Path, *overrides: str) -> ExperimentConfig:
    return compose([f"storage_path={root / 'runs'}", "run_name=one", *overrides])


def claim(config: ExperimentConfig) -> bool:
    return RunDirectory.of(config).claim(config, {})


def test_first_claim_writes_the_resolved_config(tmp_path: Path) -> None:
    config = experiment(tmp_path, "benchmark.tasks=[b,a]", "stage.optimiser.learning_rate=1e-5")
    assert claim(config) is False
    directory = RunDirectory.of(config)
    assert directory.folder.path == f"{tmp_path}/runs/one"
    assert ExperimentConfig.from_dict(directory.config()) == config
    assert directory.folder.names() == [CONFIG, CONTENTS]


def test_a_run_does_not_move_into_a_sweeps_directory(tmp_path: Path) -> None:
    """`run` for `sweep` is one wrong word, and the sweep could not be gone on with any more."""
    config = experiment(tmp_path)
    RunDirectory.of(config).folder.write_json(SWEEP, {})
    with pytest.raises(ConfigError, match="run_name='one' is a sweep in"):
        claim(config)
    assert RunDirectory.of(config).folder.names() == [SWEEP]


def test_the_same_config_goes_on(tmp_path: Path) -> None:
    claim(experiment(tmp_path, "benchmark.tasks=[b,a]", "stage.optimiser.learning_rate=1e-5"))
    again = experiment(tmp_path, "benchmark.tasks=[b,a]", "stage.optimiser.learning_rate=1e-5")
    assert claim(again) is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=5", r"seed=5 \(was 0\)"),
        ("method.rank=9", r"method\.rank=9 \(was 4\)"),
        ("benchmark.tasks=[a]", r"benchmark\.tasks=\['a'\] \(was None\)"),
        ("method=fine_tune_per_task", r"method\.name='fine_tune_per_task' \(was 'lpi'\)"),
        ("protocol=released", r"protocol='released' \(was 'corrected'\)"),
    ],
)
def test_another_config_is_refused_with_the_keys(
    tmp_path: Path, override: str, message: str
) -> None:
    """Going on with other settings would give figures of neither."""
    first = experiment(tmp_path)
    claim(first)
    with pytest.raises(ConfigError, match=rf"run_name='one' exists.*{message}.*another run_name"):
        claim(experiment(tmp_path, override))
    assert ExperimentConfig.from_dict(RunDirectory.of(first).config()) == first


def test_all_differing_keys_are_named(tmp_path: Path) -> None:
    claim(experiment(tmp_path))
    with pytest.raises(ConfigError, match=r"seed=1 .*stage\.epochs=2 "):
        claim(experiment(tmp_path, "seed=1", "stage.epochs=2"))


def test_what_does_not_change_figures_may_differ(tmp_path: Path) -> None:
    """A run may go on with more workers, or where its data was moved to."""
    claim(experiment(tmp_path))
    other = experiment(tmp_path, "cluster.workers=1", "cluster.max_failures=0", "data_path=/other")
    assert claim(other) is True


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"- 1\n- 2\n"])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    config = experiment(tmp_path)
    RunDirectory.of(config).folder.write(CONFIG, content)
    with pytest.raises(StorageError, match=r"one/config\.yaml"):
        claim(config)


def test_a_storage_path_that_is_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    with pytest.raises(StorageError, match=r"runs/\.probe.*in the way of a folder"):
        claim(experiment(tmp_path))
