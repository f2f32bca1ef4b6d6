"""What conditions the generator tells expressions apart that differ in where a thing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from system.backbones.dual_encoder import load_backbone
from system.config.schema import BackboneConfig
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.prompt_generator.conditions import ConditionEncoder
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_settings import (
    ConditionResize,
    ConditionScale,
    TextEmbedding,
)
from system.engine.model_stage import show_nothing
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import ALONE, experiment
from tests.diff_prompt.mask_files import prepare_shapes

TEXTS = ("the duck on the top left", "the duck on the top right", "the bus on the top left")


def embedded(root: Path, how: TextEmbedding, scale: ConditionScale = "sqrt_width") -> torch.Tensor:
    """Text embeddings of TEXTS, in order."""
    handle = prepare_shapes(root).task("disk").handle("train")
    (first, *_) = read_expressions(handle)
    expressions = [replace(first, text=text) for text in TEXTS]
    backbone = load_backbone(BackboneConfig("clip", "shipped:tiny_clip"))
    encoder = ConditionEncoder(
        backbone, how, scale, "squeeze", ALONE, Folder.of(root / "kept"), show_nothing
    )
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


def test_objects_at_the_edge_are_seen_where_their_masks_are(tmp_path: Path) -> None:
    """A centre crop shows neither end of a wide image, whose masks the generator learns."""
    backbone = load_backbone(BackboneConfig("clip", "shipped:tiny_clip"))
    wide = Image.new("RGB", (160, 40))
    wide.paste((255, 255, 255), (0, 0, 20, 40))
    plain = Image.new("RGB", (160, 40))
    seen = []
    resizes: tuple[ConditionResize, ...] = ("squeeze", "checkpoint")
    for resize in resizes:
        folder = Folder.of(tmp_path / resize)
        encoder = ConditionEncoder(backbone, "pooled", "raw", resize, ALONE, folder, show_nothing)
        seen.append(encoder.transform(wide, None) - encoder.transform(plain, None))
    squeezed, cropped = seen
    assert cropped.abs().max() == 0
    columns = squeezed.abs().amax(dim=(0, 1)) > 0.5
    share = columns.float().mean()
    assert bool(columns[0])
    assert 0.08 < float(share) < 0.18  # an eighth, as of the image's width


def test_views_and_scales_are_kept_apart(tmp_path: Path) -> None:
    """An embedding of another view that is found again conditions on what is not there."""
    prepare_shapes(tmp_path)
    runs = [
        experiment(tmp_path, condition_resize=resize, condition_scale=scale)
        for resize in ("squeeze", "checkpoint")
        for scale in ("sqrt_width", "raw")
    ]
    plans = [GeneratorPlan.of(run) for run in runs]
    handle = plans[0].manifest.task("disk").handle("val")
    for plan in plans:
        plan.condition_encoder(ALONE, show_nothing).of(handle, list(read_expressions(handle)))
    assert len({plan.digest for plan in plans}) == 4
    assert len(list((tmp_path / "embeddings").iterdir())) == 4 * 2
