"""The parts that all dual encoders share: features of names, and models inside the package."""

import torch

from system.backbones.dual_encoder import SHIPPED, resolved, unit
from system.backbones.tower_pair import TowerPair

NAMES = ["dog", "red_hill", "a dog on the hill"]


def test_a_names_feature_does_not_depend_on_the_other_names(pair: TowerPair) -> None:
    """Else a task's similarity would change with each task that joins the stream."""
    together = pair.name_features(NAMES)
    assert together.shape == (3, pair.shape.feature_width)
    for name, feature in zip(NAMES, together, strict=True):
        assert torch.equal(pair.name_features([name])[0], feature)


def test_a_names_feature_is_that_of_its_text(pair: TowerPair) -> None:
    """Underscores are spaces: a word with one in it is unknown to the tokenizer."""
    with torch.inference_mode():
        expected = unit(pair("text", pair.tokenize(["red hill"]), None))
    found = pair.name_features(["red_hill"])
    assert torch.equal(found, expected)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1))
    assert pair.name_features([]).shape == (0, pair.shape.feature_width)


def test_shipped_models_are_found_wherever_the_command_runs() -> None:
    assert resolved("shipped:tiny_clip") == str(SHIPPED / "tiny_clip")
    assert (SHIPPED / "tiny_clip" / "model.safetensors").is_file()
    assert resolved("openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16"
