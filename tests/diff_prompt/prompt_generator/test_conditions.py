"""What conditions the generator tells expressions apart that differ in where a thing is."""

from __future__ import annotations

from pathlib import Path

import torch

from system.backbones.dual_encoder import load_backbone
from system.config.schema import BackboneConfig
from system.data.shards.split_objects import ReferredExpression, read_expressions
from system.diff_prompt.prompt_generator.conditions import ConditionEncoder
from system.diff_prompt.prompt_generator.generator_settings import ConditionScale, TextEmbedding
from system.engine.model_stage import show_nothing
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import ALONE
from tests.diff_prompt.mask_files import prepare_shapes

TEXTS = ("the duck on the top left", "the duck on the top right", "the bus on the top left")


def embedded(root: Path, how: TextEmbedding, scale: ConditionScale = "sqrt_width") -> torch.Tensor:
    """Text embeddings of TEXTS, in order."""
    handle = prepare_shapes(root).task("disk").handle("train")
    (first, *_) = read_expressions(handle)
    expressions = [
        ReferredExpression(first.row, 0, text, first.box, first.mask, "", 1.0) for text in TEXTS
    ]
    backbone = load_backbone(BackboneConfig("clip", "shipped:tiny_clip"))
    encoder = ConditionEncoder(backbone, how, scale, ALONE, Folder.of(root / "kept"), show_nothing)
    images, texts = encoder.of(handle, expressions).take([0, 1, 2])
    width = backbone.shape.feature_width
    assert images.shape == texts.shape == (3, width)
    if scale == "sqrt_width":
        torch.testing.assert_close(texts.square().sum(dim=1), torch.full((3,), float(width)))
    assert torch.equal(images[0], images[2])
    return texts


def test_a_mean_of_tokens_keeps_the_place_that_the_small_clips_feature_loses(
    tmp_path: Path,
) -> None:
    """A generator that is not told left from right draws everything in the middle."""

    def place_to_word(texts: torch.Tensor) -> float:
        """How far the place moves an embedding, as a share of how far the word does."""
        return float((texts[0] - texts[1]).norm() / (texts[0] - texts[2]).norm())

    assert place_to_word(embedded(tmp_path / "pooled", "pooled")) < 0.1
    assert place_to_word(embedded(tmp_path / "tokens", "tokens")) > 0.4


def test_raw_conditions_are_the_encoders_own_features(tmp_path: Path) -> None:
    """The released weights were trained on these; the same directories may hold both kinds."""
    unit_length, raw = embedded(tmp_path, "pooled"), embedded(tmp_path, "pooled", "raw")
    backbone = load_backbone(BackboneConfig("clip", "shipped:tiny_clip"))
    with torch.no_grad():
        expected = backbone("text", backbone.tokenize(TEXTS), None).float()
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(raw, unit_length, rtol=0.1)
    alike = torch.nn.functional.cosine_similarity(raw, unit_length)
    torch.testing.assert_close(alike, torch.ones(3))
