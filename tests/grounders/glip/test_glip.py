"""GLIP: frozen, prompted, each sample by itself."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from system.backbones.computation import Computation
from system.config.schema import GrounderConfig, ImageSizeConfig, SelectionConfig
from system.errors import ConfigError, DataError
from system.grounders.entries import Entries
from system.grounders.glip import glip
from system.grounders.glip.glip import Glip
from system.grounders.glip.glip_files import build_network
from system.grounders.glip.glip_network import token_mean
from system.grounders.grounder import GROUNDERS, load_grounder
from tests.grounders.small_glip import (
    TEXTS,
    WORDS,
    loaded,
    some_batch,
    some_entries,
    write_small_glip,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_glip(tmp_path_factory.mktemp("glip"))


@pytest.fixture(scope="module")
def grounder(directory: Path) -> Glip:
    return loaded(directory)


def _gradients(grounder: Glip) -> list[Tensor]:
    entries = some_entries(grounder)
    leaves = [prompt.requires_grad_() for prompt in (*entries.vision, *entries.text)]
    terms = grounder.losses(some_batch(grounder), entries)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def test_it_is_found_by_name() -> None:
    assert GROUNDERS.get("glip") is glip.GROUNDER


def test_the_towers_without_entries_are_the_library_s_to_the_bit(grounder: Glip) -> None:
    """Zero-shot metrics must be those of the model itself, not of a model with hooks."""
    from transformers import BertModel, SwinBackbone

    batch, network = some_batch(grounder), grounder.network
    vision = SwinBackbone(network.vision.config).eval()
    unused = vision.load_state_dict(network.vision.state_dict(), strict=False)
    assert unused == (["swin.layernorm.weight", "swin.layernorm.bias"], [])
    text = BertModel(network.text.config, add_pooling_layer=False).eval()
    text.load_state_dict(network.text.state_dict())
    with torch.no_grad():
        levels = vision(batch.images).feature_maps
        words = text(input_ids=batch.tokens.ids, attention_mask=batch.tokens.mask)
        assert all(
            torch.equal(own, plain)
            for own, plain in zip(network.see(batch.images), levels, strict=True)
        )
        own = network.read(batch.tokens.ids, batch.tokens.mask)
        # GLIP takes what is behind a text for nothing: zeros.
        kept = words.last_hidden_state * batch.tokens.mask[..., None]
        assert torch.equal(own, kept)
        dense = network.locate(levels, kept)
    plain = grounder.dense(batch, Entries())
    assert torch.equal(plain.tokens, dense.tokens)
    assert torch.equal(plain.boxes, dense.boxes)


def test_every_prompt_learns_and_no_weight(grounder: Glip) -> None:
    """A layer without gradient would stay at its random start."""
    gradients = _gradients(grounder)
    assert len(gradients) == len(grounder.shape.vision_widths + grounder.shape.text_widths)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not any(value.requires_grad for value in grounder.parameters())
    assert not grounder.train().training


def test_a_sample_does_not_depend_on_its_batch(grounder: Glip) -> None:
    """Else metrics would change with the batch size of the evaluation."""
    together = grounder.ground(some_batch(grounder), some_entries(grounder))
    terms = grounder.losses(some_batch(grounder), some_entries(grounder))
    for sample in range(3):
        batch, entries = some_batch(grounder, (sample,)), some_entries(grounder, (sample,))
        (alone,) = grounder.ground(batch, entries)
        torch.testing.assert_close(alone.boxes, together[sample].boxes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.scores, together[sample].scores, rtol=1e-4, atol=1e-5)
        for name, value in grounder.losses(batch, entries).items():
            torch.testing.assert_close(value[0], terms[name][sample], rtol=1e-4, atol=1e-5)


def test_seven_of_one_sample_are_seven_times_the_same(grounder: Glip) -> None:
    seven = (1,) * 7
    found = grounder.ground(some_batch(grounder, seven), some_entries(grounder, seven))
    for each in found:  # to the bit on one thread; several cut the sums of a batch elsewhere
        torch.testing.assert_close(each.boxes, found[0].boxes, rtol=1e-5, atol=1e-6)


def test_boxes_are_shares_best_first_and_apart(grounder: Glip) -> None:
    selection = grounder.network.config.selection
    for found in grounder.ground(some_batch(grounder), Entries()):
        assert 0 < len(found.boxes) <= selection.most
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= 1
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert not found.boxes.requires_grad


def test_what_leaves_the_towers_can_be_changed(grounder: Glip) -> None:
    """Linear probing and CLIP-Adapter act there; both must see the shapes that `shape` says."""
    seen: list[tuple[int, int]] = []

    def level(index: int, features: Tensor) -> Tensor:
        seen.append((index, features.shape[1]))
        return features * 2

    batch = some_batch(grounder)
    plain = grounder.dense(batch, Entries())
    changed = grounder.dense(batch, Entries(adapt_level=level))
    assert seen == list(enumerate(grounder.shape.pyramid_widths))
    assert not torch.equal(plain.boxes, changed.boxes)
    turned = grounder.dense(batch, Entries(adapt_text=lambda words: words.flip(-1)))
    assert torch.equal(plain.boxes, turned.boxes)
    assert not torch.equal(plain.tokens, turned.tokens)


def test_the_pyramid_s_levels_can_be_changed(grounder: Glip) -> None:
    """The spatial CLIP-Adapter is built for the sides that `shape` says."""
    batch, seen = some_batch(grounder), []

    def level(index: int, features: Tensor) -> Tensor:
        seen.append((index, *features.shape[2:]))
        return features.flip(2)

    plain = grounder.dense(batch, Entries())
    assert torch.equal(
        plain.boxes, grounder.dense(batch, Entries(adapt_pyramid=lambda _, x: x)).boxes
    )
    assert not torch.equal(plain.boxes, grounder.dense(batch, Entries(adapt_pyramid=level)).boxes)
    assert seen == [(i, h, h) for i, h in enumerate(grounder.shape.level_sides)]


def test_a_context_of_the_text_tower_changes_scores_alone(grounder: Glip) -> None:
    batch = some_batch(grounder)
    context = torch.randn(1, 3, grounder.shape.text_widths[0])
    plain, entered = (
        grounder.dense(batch, Entries()),
        grounder.dense(batch, Entries(context=context)),
    )
    assert plain.tokens.shape == entered.tokens.shape
    assert not torch.equal(plain.tokens, entered.tokens)
    assert torch.equal(plain.boxes, entered.boxes)


def test_recomputed_activations_change_no_gradient(directory: Path, grounder: Glip) -> None:
    """In the backward pass a block runs again, when no prompt is active any more."""
    saving = loaded(directory, Computation(gradient_checkpointing=True))
    for one, other in zip(_gradients(grounder), _gradients(saving), strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_is_near_and_gives_float32(directory: Path, grounder: Glip) -> None:
    half = loaded(directory, Computation(precision="bf16"))
    plain = grounder.losses(some_batch(grounder), some_entries(grounder))
    for name, value in half.losses(some_batch(half), some_entries(half)).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, plain[name], rtol=0.1, atol=0.05)


def test_features_say_what_the_image_and_the_expression_are(grounder: Glip) -> None:
    batch = some_batch(grounder)
    images, texts = grounder.image_features(batch.images), grounder.text_features(batch.tokens)
    assert images.shape == (3, grounder.shape.image_feature_width)
    assert texts.shape == (3, grounder.shape.feature_width)
    assert not torch.allclose(images[0], images[1])
    alone = grounder.text_features(grounder.tokenize(TEXTS[:1]))
    torch.testing.assert_close(alone[0], texts[0], rtol=1e-4, atol=1e-5)


def test_padding_begin_and_end_name_nothing(grounder: Glip) -> None:
    """Scores are means over an expression's words: a longer neighbour must not dilute them."""
    tokens = grounder.tokenize(TEXTS)
    assert grounder.words(tokens).sum(dim=1).tolist() == [len(text.split()) for text in TEXTS]
    long = grounder.tokenize(["the dog " * 20])
    assert long.ids.shape == (1, grounder.shape.context_length)
    spelled = grounder.tokenize(["the <eos> dog"])
    assert (spelled.ids == grounder.tokenizer.eos_token_id).sum() == 1
    assert grounder.embed_text(tokens).shape == (*tokens.ids.shape, grounder.shape.text_widths[0])


def test_spans_are_the_words_of_score_and_loss(grounder: Glip) -> None:
    """The other words are negatives then: GLIP scores and trains a phrase's own tokens."""
    plain = some_batch(grounder)
    spans = [[(6, 9)], [], [(0, 7), (20, 24)]]  # "dog"; all; "the dog" and a part of "hill"
    tokens = grounder.tokenize(TEXTS, spans)
    assert torch.equal(tokens.ids, plain.tokens.ids)
    words = grounder.words(tokens)
    named = [[int(token) for token in ids[of]] for ids, of in zip(tokens.ids, words, strict=True)]
    encoded = [
        grounder.tokenizer(text)["input_ids"] for text in ("dog", "the hill", "the dog hill")
    ]
    assert named == [ids[1:-1] for ids in encoded]
    told = replace(plain, tokens=tokens)
    before, after = (grounder.losses(batch, Entries()) for batch in (plain, told))
    assert torch.equal(before["boxes"], after["boxes"])
    assert before["words"][1] == after["words"][1]
    assert all(before["words"][i] != after["words"][i] for i in (0, 2))
    dense = grounder.dense(told, Entries())
    expected = dense.tokens.sigmoid()[0][:, words[0]].mean(dim=-1) * dense.centreness.sigmoid()[0]
    best = grounder.ground(told, Entries())[0].scores[0]
    torch.testing.assert_close(best, expected.max().sqrt())
    assert best != grounder.ground(plain, Entries())[0].scores[0]


def test_spans_that_no_token_has_name_nothing(grounder: Glip) -> None:
    """Behind the context's end nothing is left to look for; all words would be another phrase."""
    text = "the dog " * 20
    cut = grounder.tokenize([text, "a dog"], [[(len(text) - 4, len(text) - 1)], [(2, 5)]])
    assert grounder.words(cut).sum(dim=1).tolist() == [0, 1]


def test_a_threshold_is_on_the_words_and_not_on_the_score(grounder: Glip) -> None:
    """GLIP's: a place at or below it is no box at all, so that few are left to hit by chance."""
    batch = some_batch(grounder)
    dense = grounder.dense(batch, Entries())
    named = token_mean(dense.tokens.sigmoid(), grounder.words(batch.tokens))
    threshold = float(named.flatten().quantile(0.9))
    every = grounder.ground(batch, Entries())
    try:
        grounder.select(SelectionConfig(threshold=threshold))
        few = grounder.ground(batch, Entries())
        grounder.select(SelectionConfig(threshold=0.9999))
        assert [len(found.boxes) for found in grounder.ground(batch, Entries())] == [0, 0, 0]
    finally:
        grounder.select(SelectionConfig())
    assert sum(len(found.boxes) for found in few) < sum(len(found.boxes) for found in every)
    for sample, found in enumerate(few):
        over = named[sample] > threshold
        allowed = (named[sample] * dense.centreness.sigmoid()[sample]).sqrt()[over]
        assert all(bool((allowed - score).abs().min() < 1e-6) for score in found.scores)


def test_each_level_has_its_own_candidates(grounder: Glip) -> None:
    """Of all levels together a crowded fine level leaves none to the coarse ones."""
    batch = some_batch(grounder)
    per_level = grounder.dense(batch, Entries()).anchors.per_level
    try:
        grounder.select(SelectionConfig(candidates_per_level=1))
        found = grounder.ground(batch, Entries())
    finally:
        grounder.select(SelectionConfig())
    assert all(1 <= len(boxes.boxes) <= len(per_level) for boxes in found)


def test_an_empty_expression_is_refused(grounder: Glip) -> None:
    with pytest.raises(DataError, match="expression 1 of 2 is empty"):
        grounder.tokenize(["a dog", "  "])
    assert grounder.tokenize([]).ids.shape[0] == 0


def test_losses_need_targets(grounder: Glip) -> None:
    with pytest.raises(ValueError, match="0 targets for 3 images"):
        grounder.losses(replace(some_batch(grounder), targets=()), Entries())


def test_an_image_is_squeezed_and_normalised(grounder: Glip) -> None:
    """Boxes are shares of the sides: a crop would move them, a squeeze does not."""
    pixels = np.zeros((20, 50, 3), np.uint8)
    pixels[:, 25:] = 255
    transform = grounder.image_transform()
    seen = transform(Image.fromarray(pixels), None)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    torch.testing.assert_close(seen[:, 3, 4], (0 - mean) / std, atol=0.02, rtol=0)
    torch.testing.assert_close(seen[:, 3, 28], (1 - mean) / std, atol=0.02, rtol=0)
    grey = transform(Image.fromarray(pixels[..., 0]), None)
    assert torch.equal(seen, grey)


def test_prompts_that_do_not_fit_are_refused(grounder: Glip) -> None:
    many = [torch.zeros(1, 1, 8)] * (len(grounder.shape.vision_widths) + 1)
    with pytest.raises(ValueError, match="5 prompts do not fit a Swin of 4"):
        grounder.dense(some_batch(grounder), Entries(vision=many))
    # the entry is free again
    grounder.dense(some_batch(grounder), some_entries(grounder))


def test_images_come_in_the_size_that_is_asked_for(directory: Path, grounder: Glip) -> None:
    """Both papers squeeze, to 448 and to 224 pixels; prompts and found boxes are a size's own."""
    config = GrounderConfig("glip", str(directory), images=ImageSizeConfig(side=64))
    larger = GROUNDERS.get("glip")(config)
    picture = Image.new("RGB", (90, 31))
    assert larger.image_transform()(picture, None).shape == (3, 64, 64)
    assert str(larger.image_transform()) == "squeezed to 64 x 64 pixels"
    assert larger.shape.image_size == 64
    assert larger.shape.level_sides == tuple(2 * side for side in grounder.shape.level_sides)
    assert larger.fingerprint != grounder.fingerprint
    kept = replace(config, images=ImageSizeConfig(rule="shortest", side=32, longest=80))
    assert GROUNDERS.get("glip")(kept).image_transform()(picture, None).shape == (3, 28, 81)


def test_the_head_upsamples_as_the_section_says(directory: Path, grounder: Glip) -> None:
    """Diff-Prompt's code has another one than the weights were trained with."""
    plain = GrounderConfig("glip", str(directory))
    nearest = load_grounder(replace(plain, upsampling="nearest"))
    assert isinstance(nearest, Glip)
    assert nearest.fingerprint != grounder.fingerprint
    found = nearest.dense(some_batch(nearest), Entries())
    before = grounder.dense(some_batch(grounder), Entries())
    assert not torch.allclose(found.boxes, before.boxes, atol=1e-3)
    sizes = grounder.network.config
    built = build_network(replace(sizes, head=replace(sizes.head, upsampling="nearest")))
    built.load_state_dict(grounder.network.state_dict())
    own = Glip(built, grounder.tokenizer)
    assert torch.equal(own.dense(some_batch(own), Entries()).boxes, found.boxes)
    assert own.fingerprint == nearest.fingerprint
    bilinear = load_grounder(replace(plain, upsampling="bilinear"))
    assert bilinear.fingerprint == grounder.fingerprint, "it has been bilinear before"


def test_the_coarsest_level_can_route(directory: Path, grounder: Glip) -> None:
    """LPI's code routes by P7, flattened; what else reads the image's features must not see it."""
    section = GrounderConfig("glip", str(directory), routing_feature="coarsest")
    by_level, batch = load_grounder(section), some_batch(grounder)
    levels: list[Tensor] = []

    def keep(_: int, level: Tensor) -> Tensor:
        levels.append(level)
        return level

    grounder.dense(batch, Entries(adapt_pyramid=keep))
    found = by_level.routing_features(batch.images)
    side, channels = grounder.shape.level_sides[-1], grounder.shape.feature_width
    assert found.shape == (3, by_level.routing_width) == (3, channels * side * side)
    torch.testing.assert_close(found.reshape(3, channels, side, side), levels[-1])
    features = grounder.image_features(batch.images)
    assert torch.equal(by_level.image_features(batch.images), features)
    assert torch.equal(grounder.routing_features(batch.images), features)
    assert grounder.routing_width == features.shape[1]
    assert by_level.fingerprint != grounder.fingerprint
    shortest = replace(section, images=ImageSizeConfig("shortest", 32, 64))
    with pytest.raises(
        ConfigError, match=r"coarsest.*one size; set grounder\.images\.rule=squeeze"
    ):
        load_grounder(shortest)


def test_the_fingerprint_knows_weights_sizes_and_words(tmp_path: Path, grounder: Glip) -> None:
    """An adapter must not load onto another grounder."""
    same = loaded(write_small_glip(tmp_path / "same"))
    other = loaded(write_small_glip(tmp_path / "other", seed=1))
    words = loaded(write_small_glip(tmp_path / "words", ["b", *WORDS[1:]]))
    assert same.fingerprint == grounder.fingerprint
    changed = copy.copy(same)
    changed.__dict__.pop("fingerprint")
    changed.network = copy.deepcopy(same.network)
    config = same.network.config
    changed.network.config = replace(config, pictures=replace(config.pictures, image_size=64))
    prints = {found.fingerprint for found in (same, other, words, changed)}
    assert len(prints) == 4
