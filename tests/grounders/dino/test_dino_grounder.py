"""The Grounding DINO family behind the grounder's interface: the library's outputs, and prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from system.config.schema import GrounderConfig, SelectionConfig
from system.errors import ConfigError, DataError
from system.grounders.dino.dino_grounder import GroundingDino
from system.grounders.entries import Added, Entries
from system.grounders.grounder import GROUNDERS, Grounder, GroundingBatch, load_grounder
from tests.backbones.edited_checkpoint import edited, in_json
from tests.grounders.small_grounding_dino import FAMILY, IMAGE_SIZE, write_small_grounding_dino

TEXTS = ["the red dog on the left", "a disk"]
TARGETS = [
    torch.tensor([[0.1, 0.2, 0.5, 0.6]]),
    torch.tensor([[0.0, 0.0, 0.3, 0.3], [0.5, 0.5, 1.0, 0.9]]),
]


@pytest.fixture(scope="module", params=FAMILY)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_grounding_dino(tmp_path_factory.mktemp("dino"), kind)


def load(kind: str, path: Path, *, frugal: bool = False) -> GroundingDino:
    config = GrounderConfig(kind, str(path), gradient_checkpointing=frugal)
    loaded = GROUNDERS.get(kind)(config)
    assert isinstance(loaded, GroundingDino)
    return loaded


@pytest.fixture(scope="module")
def grounder(kind: str, checkpoint: Path) -> GroundingDino:
    return load(kind, checkpoint)


def images() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def batch(grounder: Grounder) -> GroundingBatch:
    return GroundingBatch(images(), grounder.tokenize(TEXTS), TARGETS)


def alone(grounder: Grounder, index: int) -> GroundingBatch:
    one = slice(index, index + 1)
    return GroundingBatch(images()[one], grounder.tokenize(TEXTS[one]), TARGETS[one])


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum(dim=0)


def prompts(grounder: GroundingDino, *, samples: int = 1) -> Entries:
    torch.manual_seed(9)
    return Entries(
        vision=[torch.randn(samples, 2, width) for width in grounder.shape.vision_widths],
        text=[torch.randn(samples, 3, width) for width in grounder.shape.text_widths],
        context=torch.randn(samples, 2, grounder.shape.text_widths[0]),
    )


def test_boxes_are_the_librarys_to_the_bit(
    kind: str, grounder: GroundingDino, checkpoint: Path
) -> None:
    """Without entries a method would otherwise be judged against another model."""
    plain = FAMILY[kind].from_pretrained(checkpoint).eval()
    given = batch(grounder)
    with torch.no_grad():
        output = plain(given.images, given.tokens.ids, attention_mask=given.tokens.mask)
    found = grounder.ground(given, Entries())
    scores = output.logits.sigmoid().amax(-1)
    for index, scored in enumerate(found):
        order = scores[index].argsort(descending=True, stable=True)
        assert torch.equal(scored.scores, scores[index][order])
        middle = (scored.boxes[:, :2] + scored.boxes[:, 2:]) / 2
        inside = ((scored.boxes > 0) & (scored.boxes < 1)).all(dim=1)
        expected = output.pred_boxes[index][order][:, :2]
        torch.testing.assert_close(middle[inside], expected[inside])


@pytest.mark.parametrize("changes", [{}, {"auxiliary_loss": True}])
def test_a_samples_loss_is_what_the_library_makes_of_it_alone(
    kind: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Else the loss of a global batch would depend on how it is cut among workers."""
    grounder = load(kind, write_small_grounding_dino(tmp_path, kind, **changes))
    plain = FAMILY[kind].from_pretrained(tmp_path).eval()
    together = total(grounder.losses(batch(grounder), Entries()))
    for index in (0, 1):
        one = alone(grounder, index)
        low, high = one.targets[0][:, :2], one.targets[0][:, 2:]
        label = {
            "class_labels": torch.zeros(len(low), dtype=torch.long),
            "boxes": torch.cat([(low + high) / 2, high - low], dim=1),
        }
        expected = plain(
            one.images, one.tokens.ids, attention_mask=one.tokens.mask, labels=[label]
        ).loss
        torch.testing.assert_close(together[index], expected, rtol=1e-4, atol=1e-4)


def test_prompts_enter_every_layer_and_learn(grounder: GroundingDino) -> None:
    """A layer left out would train nothing, unnoticed."""
    entries = prompts(grounder)
    assert entries.context is not None
    leaves = [prompt.requires_grad_() for prompt in (*entries.vision, *entries.text)]
    leaves.append(entries.context.requires_grad_())
    loss = total(grounder.losses(batch(grounder), entries)).sum()
    gradients = torch.autograd.grad(loss, leaves)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_added_prompts_run_through_both_towers_in_step(grounder: GroundingDino) -> None:
    """As LPI has them; where the hooks miss a tower they would train nothing."""
    torch.manual_seed(9)
    shape = grounder.shape
    leaves = [
        torch.randn(1, 2, width, requires_grad=True)
        for width in (*shape.vision_widths[:2], *shape.text_widths[:2])
    ]
    added = Added(vision=leaves[:2], text=leaves[2:])
    loss = total(grounder.losses(batch(grounder), Entries(added=added))).sum()
    gradients = torch.autograd.grad(loss, leaves)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    plain = total(grounder.losses(batch(grounder), Entries())).sum()
    assert loss != plain


def test_each_sample_has_its_own_prompts(grounder: GroundingDino) -> None:
    entries = prompts(grounder, samples=2)
    together = grounder.ground(batch(grounder), entries)
    second = replace(
        entries,
        vision=[prompt[1:] for prompt in entries.vision],
        text=[prompt[1:] for prompt in entries.text],
        context=None if entries.context is None else entries.context[1:],
    )
    (found,) = grounder.ground(alone(grounder, 1), second)
    torch.testing.assert_close(together[1].scores, found.scores, rtol=1e-4, atol=1e-4)


def test_what_leaves_the_towers_can_be_changed(grounder: GroundingDino) -> None:
    """Linear probing and CLIP-Adapter live here alone."""
    given, seen = batch(grounder), []

    def level(index: int, features: Tensor) -> Tensor:
        seen.append((index, features.shape[1]))
        return features.square()  # a factor would be normalised away

    plain = grounder.ground(given, Entries())[0]
    same = grounder.ground(given, Entries(adapt_level=lambda _, x: x, adapt_text=lambda x: x))[0]
    assert torch.equal(plain.scores, same.scores)
    levels = grounder.ground(given, Entries(adapt_level=level))[0]
    assert not torch.allclose(plain.boxes, levels.boxes)
    assert seen == list(enumerate(grounder.shape.pyramid_widths))
    text = grounder.ground(given, Entries(adapt_text=lambda x: x * 2))[0]
    assert not torch.allclose(plain.scores, text.scores)
    again = grounder.ground(given, Entries())[0]
    assert torch.equal(plain.scores, again.scores)


def test_the_pyramid_s_levels_can_be_changed(grounder: GroundingDino) -> None:
    """The spatial CLIP-Adapter is built for the sides that `shape` says."""
    given, seen = batch(grounder), []

    def level(index: int, features: Tensor) -> Tensor:
        seen.append((index, *features.shape))
        return features.flip(2)

    plain = grounder.ground(given, Entries())[0]
    same = grounder.ground(given, Entries(adapt_pyramid=lambda _, x: x))[0]
    assert torch.equal(plain.boxes, same.boxes)
    assert not torch.allclose(
        plain.boxes, grounder.ground(given, Entries(adapt_pyramid=level))[0].boxes
    )
    width = grounder.shape.feature_width
    assert seen == [(i, 2, width, h, h) for i, h in enumerate(grounder.shape.level_sides)]
    assert torch.equal(plain.boxes, grounder.ground(given, Entries())[0].boxes)


def test_recomputed_activations_give_the_same_gradients(
    kind: str, grounder: GroundingDino, checkpoint: Path
) -> None:
    """In the backward pass no prompt is active any more: it has to come with the inputs."""
    frugal = load(kind, checkpoint, frugal=True)
    found = []
    for model in (grounder, frugal):
        entries = prompts(grounder)
        leaf = entries.vision[1].requires_grad_()
        loss = total(model.losses(batch(grounder), entries)).sum()
        found.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(found[0], found[1])


def test_features_do_not_depend_on_padding(grounder: GroundingDino) -> None:
    """They route a sample to its task."""
    together = grounder.text_features(grounder.tokenize(TEXTS))
    short = grounder.text_features(grounder.tokenize(TEXTS[1:]))
    torch.testing.assert_close(together[1:], short, rtol=1e-4, atol=1e-5)
    assert together.shape == (2, grounder.shape.feature_width)
    assert grounder.image_features(images()).shape == (2, grounder.shape.image_feature_width)
    embedded = grounder.embed_text(grounder.tokenize(TEXTS))
    assert embedded.shape[-1] == grounder.shape.text_widths[0]


def test_the_coarsest_level_can_route(kind: str, grounder: GroundingDino, checkpoint: Path) -> None:
    by_level = load_grounder(GrounderConfig(kind, str(checkpoint), routing_feature="coarsest"))
    levels: list[Tensor] = []

    def keep(_: int, level: Tensor) -> Tensor:
        levels.append(level)
        return level

    grounder.ground(batch(grounder), Entries(adapt_pyramid=keep))
    found = by_level.routing_features(batch(grounder).images)
    assert found.shape == (2, by_level.routing_width)
    torch.testing.assert_close(found, levels[-1].flatten(1), rtol=1e-4, atol=1e-5)
    assert by_level.fingerprint != grounder.fingerprint


def test_it_has_no_head_that_upsamples(kind: str, checkpoint: Path) -> None:
    """Diff-Prompt's released recipe would be taken in part."""
    with pytest.raises(ConfigError, match=r"upsampling=nearest is for a GLIP"):
        load_grounder(GrounderConfig(kind, str(checkpoint), upsampling="nearest"))


def test_an_expression_is_one_phrase(grounder: GroundingDino) -> None:
    """The model would take what stands between two stops for an object of its own."""
    stopped = grounder.tokenize(["the dog. on the? left."])
    assert torch.equal(stopped.ids, grounder.tokenize(["the dog on the left"]).ids)
    long = grounder.tokenize(["the dog " * 40])
    assert long.ids.shape[1] == grounder.shape.context_length
    assert long.ids[0, -2:].tolist() == [1012, 102]
    with pytest.raises(DataError, match="no word"):
        grounder.tokenize(["the dog", "..."])


def test_spans_are_the_words_of_score_and_loss(grounder: GroundingDino) -> None:
    """Of "the red dog on the left" the dog is meant, whatever is left of it."""
    plain = batch(grounder)
    told = replace(plain, tokens=grounder.tokenize(TEXTS, [[(8, 11)], []]))
    assert torch.equal(told.tokens.ids, plain.tokens.ids)
    place = plain.tokens.ids[0].tolist().index(grounder.tokenizer.convert_tokens_to_ids("dog"))
    with torch.no_grad():
        logits = grounder.model(
            plain.images, plain.tokens.ids, attention_mask=plain.tokens.mask
        ).logits
    (found, _), (before, _) = (grounder.ground(b, Entries()) for b in (told, plain))
    expected = logits[0, :, place].sigmoid().sort(descending=True).values
    torch.testing.assert_close(found.scores, expected[: len(found.scores)])
    assert not torch.equal(found.scores, before.scores)
    losses, of_all = grounder.losses(told, Entries()), grounder.losses(plain, Entries())
    assert losses["ce"][0] != of_all["ce"][0]
    torch.testing.assert_close(losses["ce"][1], of_all["ce"][1])


def test_spans_skip_the_words_that_are_left_out(grounder: GroundingDino) -> None:
    """A stop inside the text is dropped: the tokens behind it stand one place earlier."""
    tokens = grounder.tokenize(["the dog. on the left", "a disk"], [[(16, 20)], [(0, 1)]])
    assert tokens.positive is not None
    named = [tokens.ids[i][tokens.positive[i]].tolist() for i in (0, 1)]
    assert named == [[grounder.tokenizer.convert_tokens_to_ids(word)] for word in ("left", "a")]


def test_a_threshold_leaves_out_boxes_that_fit_no_word(grounder: GroundingDino) -> None:
    given = batch(grounder)
    every = grounder.ground(given, Entries())
    middle = float(every[0].scores.median())
    try:
        grounder.select(SelectionConfig(threshold=middle))
        few = grounder.ground(given, Entries())
    finally:
        grounder.select(SelectionConfig())
    kept = every[0].scores > middle
    assert 0 < int(kept.sum()) < len(kept)
    assert torch.equal(few[0].scores, every[0].scores[kept])
    assert torch.equal(few[0].boxes, every[0].boxes[kept])
    with pytest.raises(ConfigError, match=r"selection\.candidates_per_level=5: .*set it to null"):
        grounder.select(SelectionConfig(candidates_per_level=5))


def test_an_image_is_squeezed_to_the_square(grounder: GroundingDino) -> None:
    transform = grounder.image_transform()
    assert transform(Image.new("RGB", (90, 31)), None).shape == (3, IMAGE_SIZE, IMAGE_SIZE)


def test_an_adapter_belongs_to_these_weights_and_settings(
    kind: str, grounder: GroundingDino, checkpoint: Path, tmp_path: Path
) -> None:
    copied = load(kind, edited(checkpoint, tmp_path / "copy"))
    assert copied.fingerprint == grounder.fingerprint
    edits = [
        in_json("config.json", class_cost=2.0),
        in_json("config.json", "backbone_config", hidden_act="relu"),
        in_json("preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
    ]
    for number, edit in enumerate(edits):
        changed = load(kind, edited(checkpoint, tmp_path / str(number), edit))
        assert changed.fingerprint != grounder.fingerprint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            in_json("config.json", model_type="bert"),
            r"not a (MM-)?Grounding.DINO",
        ),
        (in_json("tokenizer_config.json", cls_token="the"), r"grounder\.path=.*'the'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    kind: str, checkpoint: Path, tmp_path: Path, edit: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(kind, edited(checkpoint, tmp_path, edit))


def test_a_relative_s_checkpoint_is_sent_to_its_own_group(kind: str, checkpoint: Path) -> None:
    """Loaded as the other, it would lack the scores' biases, or leave them over."""
    (other,) = set(FAMILY) - {kind}
    with pytest.raises(ConfigError, match=rf"not a .*; choose grounder={kind}$"):
        load(other, checkpoint)


def test_the_relative_s_scores_have_a_bias(tmp_path: Path) -> None:
    """It is what tells the two apart: left at its start, all scores would be near 0.01."""
    path = write_small_grounding_dino(tmp_path, "mm_grounding_dino")
    model = FAMILY["mm_grounding_dino"].from_pretrained(path)
    for layer in model.class_embed:
        torch.nn.init.constant_(layer.bias, 2.0)
    model.save_pretrained(path)
    grounder = load("mm_grounding_dino", path)
    (first, _) = grounder.ground(batch(grounder), Entries())
    assert bool((first.scores > 0.5).any())


def test_it_stays_frozen(grounder: GroundingDino) -> None:
    grounder.train()
    assert not grounder.training
    assert not any(parameter.requires_grad for parameter in grounder.parameters())


def test_a_tokenizer_beside_the_checkpoint_s_own_is_refused(kind: str, checkpoint: Path) -> None:
    """It would go unused, while somebody believes that it counts."""
    config = GrounderConfig(kind, str(checkpoint), tokenizer="bert-base-uncased")
    with pytest.raises(ConfigError, match=r"grounder\.tokenizer='bert-base-uncased'.*leave"):
        GROUNDERS.get(kind)(config)
