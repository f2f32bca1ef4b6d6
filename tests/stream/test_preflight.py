"""What is wrong is said before anything expensive starts, in one line that names the field."""

from pathlib import Path

import pytest

from system.backbones.dual_encoder import load_backbone
from system.errors import AdapterMismatchError, ConfigError, DataError, PromptideError
from system.storage.adapters import AdapterHeader
from system.stream.learned_state import LearnedState
from system.stream.preflight import check_experiment
from tests.backbones.small_clip import write_small_clip
from tests.integration.small_stream import (
    TASKS,
    WORDS,
    prepare_small_stream,
    small_experiment,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preflight")
    prepare_small_stream(root)
    return root


def test_a_good_config_passes(root: Path) -> None:
    """The checks must not refuse what works."""
    checked = check_experiment(small_experiment(root, "good"))
    assert checked.tasks == TASKS


@pytest.mark.parametrize(
    ("overrides", "tasks"),
    [
        (["benchmark.order=reversed"], TASKS[::-1]),
        (["benchmark.order=shuffled", "seed=0"], ("person", "animal", "food")),
        (["benchmark.order=reversed", "benchmark.tasks=[food,animal]"], ("animal", "food")),
    ],
)
def test_the_stream_is_ordered_as_asked(
    root: Path, overrides: list[str], tasks: tuple[str, ...]
) -> None:
    """An ablation of the order would compare a stream with itself."""
    assert check_experiment(small_experiment(root, "ordered", *overrides)).tasks == tasks


def test_the_order_by_similarity_is_that_of_the_names_to_the_backbone(root: Path) -> None:
    experiment = small_experiment(root, "ordered", "benchmark.order=similarity")
    features = load_backbone(experiment.backbone).name_features(TASKS)
    first, second = sorted((1, 2), key=lambda i: float(features[0] @ features[i]), reverse=True)
    expected = (TASKS[0], TASKS[first], TASKS[second])
    assert check_experiment(experiment).tasks == expected


@pytest.mark.parametrize(
    ("overrides", "error", "named"),
    [
        (["benchmark.name=other"], DataError, "run `promptide prepare` with the same overrides"),
        (["benchmark.tasks=[animal,plant]"], DataError, "'plant'"),
        (["benchmark.tasks=[animal,animal]"], ConfigError, "benchmark.tasks"),
        (["benchmark.order=random"], ConfigError, "benchmark.order='random' is not one of: given"),
        (["stage.batch_size=64"], DataError, "stage.batch_size"),
        (["backbone.path=nowhere/clip"], ConfigError, "backbone.path"),
        (["backbone.name=resnet"], ConfigError, "'resnet'"),
        (["method.prompt_length=15"], ConfigError, "prompt_length"),
        (["method.prompt_depth=7"], ConfigError, "prompt_depth"),
        (["method.rank=0"], ConfigError, "rank"),
        (["method.name=lpl"], ConfigError, "did you mean 'lpi'"),
        (["stage.augmentation=blur"], ConfigError, "stage.augmentation"),
    ],
)
def test_a_bad_value_is_named(
    root: Path, overrides: list[str], error: type[PromptideError], named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A run that fails after minutes for a typing error wastes a cluster."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error) as caught:
        check_experiment(small_experiment(root, "bad", *overrides))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapters_of_another_backbone_are_refused(root: Path) -> None:
    """Prompts mean nothing to weights that they were not learned with."""
    from system.backbones.clip import load_clip

    experiment = small_experiment(root, "other-backbone")
    other = load_clip(str(write_small_clip(root / "other", WORDS, seed=1)))
    header = AdapterHeader(
        backbone="other",
        backbone_fingerprint=other.fingerprint,
        method=dict(experiment.method),
        benchmark="small",
        benchmark_fingerprint="x",
        protocol="corrected",
        seed=0,
        tasks=TASKS,
        router={"centers": 5},
    )
    LearnedState(header, other).save_pretrained(root / "runs" / "other-backbone" / "adapters")
    with pytest.raises(AdapterMismatchError, match="backbone"):
        check_experiment(experiment)
