"""The command line speaks plainly: one line for what is wrong, and its own exit code."""

from pathlib import Path

import pytest

from system import app
from system.cli import COMMANDS
from tests.integration.small_stream import overrides, prepare_small_stream


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("app")
    prepare_small_stream(root)
    return root


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runn"], "runn"),
        (["run", "stage.epoch=3"], "epoch"),
        (["run", "experiment=nothing"], "nothing"),
        (["run", "seed"], "key=value"),
        (["prepare", "benchmark.dataset=imagenet"], "imagenet"),
        (["report", "run_name=never-run"], "never-run"),
        (["pretrain", "backbone=clip"], "pretrain"),
        (["run", "--config"], "--config"),
        (["run", "--config=missing.yaml"], "missing.yaml"),
        (["sweep", "run_name=nothing"], "tune=lpi"),
        (["parameters", "method=lpy"], "lpy"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    root: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback tells a user nothing that they can mend."""
    if "=" in "".join(arguments[1:]):
        arguments += [f"storage_path={root / 'runs'}", f"data_path={root / 'data'}"]
    assert app.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert named in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Else a command is there that nobody finds."""
    assert app.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert app.main([]) == 2


@pytest.mark.parametrize("experiment", ["demo", "diff_prompt_small", "rec_compare", "rec_stream"])
def test_every_kind_of_experiment_prepares_its_benchmark(experiment: str, tmp_path: Path) -> None:
    """`promptide prepare` and `run` with the same words are what the README tells to type."""
    sizes = ["train=2", "val=1", "test=1", "pictograms_per_task=6", "tasks=[food]"]
    options = [f"++benchmark.options.{size}" for size in sizes]
    assert app.main(["prepare", f"experiment={experiment}", f"data_path={tmp_path}", *options]) == 0
    assert list(tmp_path.glob("*/manifest.json"))


def test_a_storage_path_that_cannot_be_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full or read-only disk is found before training, not at the first checkpoint."""
    blocked = root / "a-file"
    blocked.write_text("in the way")
    arguments = [*overrides(root, "blocked"), f"storage_path={blocked / 'runs'}"]
    assert app.main(["run", *arguments]) == 2
    shown = capsys.readouterr().err
    assert str(blocked) in shown
    assert "storage_path" in shown
