"""A cache of pixels that would be of no use is refused before anything is loaded."""

from dataclasses import replace

import pytest

from system.config.compose import compose
from system.errors import ConfigError
from system.objectives.objective import OBJECTIVES


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=demo"], r"stage\.cache_gb=3 keeps bytes.*inputs\.pixels=fast"),
        (["experiment=rec_stream"], r"stage\.cache_gb=3.*dual encoders alone.*null"),
    ],
)
def test_what_keeps_no_pixels_says_so(overrides: list[str], message: str) -> None:
    plain = compose(overrides)
    experiment = replace(plain, stage=replace(plain.stage, cache_gb=3.0))
    with pytest.raises(ConfigError, match=message):
        OBJECTIVES.get(experiment.stage.objective).check(experiment)


def test_the_experiment_at_the_paper_s_sizes_keeps_bytes() -> None:
    experiment = compose(["experiment=lpi", "benchmark.options.root=/data"])
    assert experiment.inputs.pixels == "fast"
    assert experiment.stage.loader_threads == "auto"
    assert experiment.stage.cache_gb == 20
