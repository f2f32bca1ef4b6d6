"""`promptide config` would call ours what is a paper's, or theirs what is ours, if these fail."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from system.cli.config import config
from system.config.compose import CONFIG_DIRECTORY, composed_values
from system.config.protocol import released_settings
from system.config.sources import Source, sourced_values
from system.errors import ConfigError

EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIRECTORY / "experiment").glob("*.yaml"))


def sources(*overrides: str) -> dict[str, Source]:
    return {one.key: one.source for one in sourced_values(overrides)}


@pytest.mark.parametrize(
    ("comment", "kind", "note"),
    [
        (" release", "release", ""),
        (" release: SGD", "release", "SGD"),
        (" paper: 9 of 12 layers", "paper", "9 of 12 layers"),
        (" of the adapters  # release: 8", "release", "of the adapters; 8"),
        (" the released code: dot", "ours", "the released code: dot"),
        (' a name or "#rrggbb"', "ours", 'a name or "#rrggbb"'),
        ("", "ours", ""),
    ],
)
def test_a_comment_names_its_source(comment: str, kind: str, note: str) -> None:
    found = Source.of_comment(comment, "x.yaml:1")
    assert (found.kind, found.note) == (kind, note)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if "released" in name])
def test_every_value_of_a_released_file_names_its_source(experiment: str) -> None:
    """A value without one would be printed as ours."""
    found = sources(f"experiment={experiment}")
    settings = released_settings(composed_values([f"experiment={experiment}"]))
    assert len(settings) > 20
    for key in settings:
        if key != "inputs.resize":  # without effect under the random crop
            assert found[key].kind == "release", key
            assert found[key].place.startswith("released/"), key


def test_what_the_user_gave_is_called_given() -> None:
    found = sources("experiment=lpi", "stage.epochs=2", "seed=1", "evaluation.split=val")
    given = {key for key, source in found.items() if source.kind == "given"}
    assert given == {"stage.epochs", "seed", "evaluation.split"}
    assert found["stage.optimiser.learning_rate"].place.startswith("experiment/lpi.yaml:")
    assert found["backbone.path"].place.startswith("backbone/clip.yaml:")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_experiment_is_printed_as_a_file_that_composes_the_same(
    experiment: str, tmp_path: Path
) -> None:
    """Whoever keeps the printed config must be able to run it."""
    words = [f"experiment={experiment}"]
    out = Console(file=StringIO(), width=80)
    config(words, None, out)
    assert isinstance(out.file, StringIO)
    file = tmp_path / "printed.yaml"
    file.write_text(out.file.getvalue())
    assert composed_values([], str(file)) == composed_values(words)


def test_a_config_that_does_not_compose_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage"):
        sourced_values(["stage.epoch=2"])
