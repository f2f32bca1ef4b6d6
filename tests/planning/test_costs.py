"""FLOPs from sizes alone are those of the arithmetic, and need no weights."""

from pathlib import Path

import pytest
from transformers import CLIPConfig

from system.backbones.clip import load_clip
from system.backbones.tower_pair import TowerPair
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.planning import costs
from system.planning.costs import retrieval_costs
from system.planning.stream_work import IMAGE, TEXT
from tests.backbones.small_clip import write_small_clip


def experiment(path: Path, *more: str) -> ExperimentConfig:
    return compose([f"backbone.path={path}", *more])


def tower(tokens: int, width: int, layers: int) -> float:
    """Of a transformer: four projections, an MLP four times as wide, and two products of tokens."""
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def test_vit_b16_needs_its_config_alone(tmp_path: Path) -> None:
    """A plan is for a cluster that has the weights, made on a machine that has not."""
    config = CLIPConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "patch_size": 16,
        }
    )
    config.save_pretrained(tmp_path)
    found = retrieval_costs(experiment(tmp_path, "method=lpi"), tasks=12)
    image, text = tower(197, 768, 12) + 2 * 196 * 3 * 16**2 * 768, tower(77, 512, 12)
    assert found.of[IMAGE, "plain"].flops == pytest.approx(image, rel=1e-3)
    assert found.of[TEXT, "plain"].flops == pytest.approx(text, rel=1e-3)
    # Sixteen tokens more, and back through all layers, of which no weight has a gradient.
    prompted = tower(213, 768, 12) + 2 * 196 * 3 * 16**2 * 768
    assert found.of[IMAGE, "prompted"].flops == pytest.approx(prompted, rel=2e-3)
    assert 1.9 < found.of[IMAGE, "training"].flops / prompted < 2.2
    assert found.trainable == 4 * (12 + 16 + 16 + 768 + 512)
    assert found.weights == pytest.approx(4 * 149.6e6, rel=1e-3)


def test_sizes_alone_tell_what_a_real_step_does_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_small_clip(tmp_path, ["a", "b"])
    lpi = experiment(path, "method=lpi", "method.prompt_length=4")
    from_sizes = retrieval_costs(lpi, tasks=2)

    def real(config: object) -> TowerPair:
        return load_clip(str(path))

    monkeypatch.setattr(costs, "sketch", real)
    monkeypatch.setattr(costs, "DEVICE", "cpu")
    computed = retrieval_costs(lpi, tasks=2)
    assert from_sizes == computed
    assert from_sizes.of[IMAGE, "training"].saved > 0


def test_gradient_checkpointing_trades_memory_for_flops(tmp_path: Path) -> None:
    path = write_small_clip(tmp_path, ["a", "b"])
    lpi = ("method=lpi", "method.prompt_length=4")
    kept = retrieval_costs(experiment(path, *lpi), tasks=2).of[IMAGE, "training"]
    again = retrieval_costs(
        experiment(path, *lpi, "backbone.gradient_checkpointing=true"), tasks=2
    ).of[IMAGE, "training"]
    assert again.saved < kept.saved
    assert again.flops > kept.flops


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json is not on this machine.*hf download"):
        retrieval_costs(compose(["backbone=clip", "backbone.path=nobody/no-such-clip"]), tasks=1)
