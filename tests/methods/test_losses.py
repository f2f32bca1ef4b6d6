from __future__ import annotations

import math
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from system.errors import ConfigError
from system.methods.losses import (
    Sigmoid,
    attracting,
    contrastive_loss,
    layer_alignment,
    nt_bxent,
    task_contrast,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _naive_nt_bxent(
    x: Tensor, target: Tensor, temperature: float, sigmoid: Sigmoid = "single"
) -> float:
    """Element by element, from the definition; empty sides contribute 0."""
    size, rows = len(x), []
    for i in range(size):
        sides: dict[int, list[float]] = {0: [], 1: []}
        for j in range(size):
            cosine = float(torch.dot(x[i], x[j]) / (x[i].norm() * x[j].norm()))
            p = 1.0 if i == j else _sigmoid(cosine / temperature)
            if sigmoid == "double":
                p = _sigmoid(p)
            wanted = int(target[i, j])
            sides[wanted].append(-math.log(p if wanted else 1 - p))
        rows.append(sum(sum(side) / len(side) for side in sides.values() if side))
    return sum(rows) / size


def test_contrastive_loss_is_zero_for_certain_pairs_and_log_b_for_guesses() -> None:
    assert contrastive_loss(torch.eye(5) * 1000).item() == pytest.approx(0)
    assert contrastive_loss(torch.zeros(5, 5)).item() == pytest.approx(math.log(5))


def test_contrastive_loss_treats_both_directions_alike() -> None:
    """A loss of rows only would train one direction of retrieval and not the other."""
    logits = _random(6, 6)
    assert contrastive_loss(logits).item() == pytest.approx(contrastive_loss(logits.T).item())


def test_contrastive_loss_refuses_a_batch_without_pairs() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        contrastive_loss(_random(4, 5))


@pytest.mark.parametrize("sigmoid", get_args(Sigmoid))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_nt_bxent_equals_its_definition(temperature: float, sigmoid: Sigmoid) -> None:
    x = _random(5, 7)
    target = (_random(5, 5, seed=1) > 0) | torch.eye(5, dtype=torch.bool)
    expected = _naive_nt_bxent(x, target, temperature, sigmoid)
    found = nt_bxent(x, target, temperature, sigmoid=sigmoid)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sigmoid", get_args(Sigmoid))
@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("target", [torch.ones(3, 3), torch.eye(3)])
def test_nt_bxent_stays_finite(target: Tensor, temperature: float, sigmoid: Sigmoid) -> None:
    """Two tasks that resemble each other have no negatives: NaN would end the training."""
    x = _random(3, 8).requires_grad_()
    loss = nt_bxent(x, target, temperature, sigmoid=sigmoid)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("sigmoid", get_args(Sigmoid))
def test_nt_bxent_without_negatives_is_nan_as_published(sigmoid: Sigmoid) -> None:
    assert nt_bxent(_random(3, 8), torch.ones(3, 3), 1.0, sigmoid=sigmoid, empty="nan").isnan()


def test_one_sigmoid_pulls_where_two_hardly_do() -> None:
    """Two tasks that are alike and lie apart: as released, the loss could move by 0.38 in all."""
    apart, near = torch.tensor([[1.0, 0.0], [-1.0, 0.1]]), torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    span = {
        sigmoid: nt_bxent(apart, torch.ones(2, 2), 0.5, sigmoid=sigmoid).item()
        - nt_bxent(near, torch.ones(2, 2), 0.5, sigmoid=sigmoid).item()
        for sigmoid in get_args(Sigmoid)
    }
    assert span["double"] < 0.2
    assert span["single"] > 0.9


def test_row_without_negatives_leaves_the_other_rows_unchanged() -> None:
    x, target = _random(3, 8), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]])
    assert nt_bxent(x, target, 1.0).item() == pytest.approx(
        _naive_nt_bxent(x, target, 1.0), rel=1e-5
    )


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_layer_alignment_prefers_the_same_layer(similarity: Literal["cosine", "dot"]) -> None:
    vision = torch.eye(4)[:, :, None].expand(4, 4, 6)  # layer l is 1 at position l
    text = torch.eye(4)[:, :, None].expand(4, 4, 3)
    matched = layer_alignment(vision, text, similarity=similarity, temperature=0.1)
    shifted = layer_alignment(vision, text.roll(1, 0), similarity=similarity, temperature=0.1)
    assert matched < 0.01 < shifted


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_layer_alignment_teaches_both_modalities(similarity: Literal["cosine", "dot"]) -> None:
    vision, text = _random(3, 4, 12), _random(3, 4, 8, seed=1)
    vision.requires_grad_()
    text.requires_grad_()
    loss = layer_alignment(vision, text, similarity=similarity, temperature=0.5)
    for gradient in torch.autograd.grad(loss, (vision, text)):
        assert gradient.abs().max() > 0


def test_task_contrast_is_the_mean_of_the_modalities() -> None:
    """The recorded fixture may hold only NaN, so the definition is the judge here."""
    vision, text = _random(4, 2, 3, 5), _random(4, 2, 3, 4, seed=1)
    similarity = torch.full((4, 4), 0.3).fill_diagonal_(1)
    similarity[0, 1] = similarity[1, 0] = 0.6
    target = similarity > 0.4
    expected = (
        _naive_nt_bxent(vision.flatten(1), target, 1.0)
        + _naive_nt_bxent(text.flatten(1), target, 1.0)
    ) / 2
    loss = task_contrast(vision, text, similarity, threshold=0.4, temperature=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def _current_gradient(temperature: float, sigmoid: Sigmoid) -> Tensor:
    """Gradient on the third task's prompt, the earlier two being constants."""
    base = torch.ones(3, 2, 4, 6)  # prompts of one kind: their cosines are near 1
    vision, text = base + 0.3 * _random(3, 2, 4, 6), base + 0.3 * _random(3, 2, 4, 6, seed=1)
    current = vision[2].clone().requires_grad_()
    stacked = torch.cat([vision[:2], current[None]])
    similarity = torch.tensor([[1, 0.5, 0.2], [0.5, 1, 0.6], [0.2, 0.6, 1]])
    loss = task_contrast(
        stacked, text, similarity, threshold=0.4, temperature=temperature, sigmoid=sigmoid
    )
    (gradient,) = torch.autograd.grad(loss, current)
    return gradient


def test_task_contrast_teaches_where_the_released_one_has_no_gradient() -> None:
    """Documents why the corrected protocol has one sigmoid and another temperature."""
    released, corrected = _current_gradient(0.001, "double"), _current_gradient(0.5, "single")
    assert released.norm() == 0
    assert corrected.norm() > 1e-3


def test_pairs_above_the_threshold_or_the_quantile_attract() -> None:
    """On a backbone whose similarities are all high a fixed threshold tells nothing apart."""
    alike = torch.tensor([[1, 0.9, 0.7], [0.9, 1, 0.8], [0.7, 0.8, 1]])
    every, none = torch.ones(3, 3, dtype=torch.bool), torch.eye(3, dtype=torch.bool)
    best = none.clone()
    best[0, 1] = best[1, 0] = True
    assert torch.equal(attracting(alike, 0.4), every)
    assert torch.equal(attracting(alike, 0.95), none)
    assert torch.equal(attracting(alike, 0.4, quantile=0.5), best)
    assert torch.equal(attracting(alike, 0.4, quantile=1.0), none)
    assert torch.equal(attracting(alike[:2, :2], 0.4, quantile=0.0), none[:2, :2])
    assert torch.equal(attracting(alike[:1, :1], 0.4, quantile=0.5), none[:1, :1])


def test_a_pair_attracts_both_ways_whatever_its_rounding() -> None:
    alike = torch.tensor([[1, 0.4 + 1e-7, 0], [0.4 - 1e-7, 1, 0], [0, 0, 1]])
    found = attracting(alike, 0.4)
    assert torch.equal(found, found.T)


def test_a_task_attracts_itself_at_any_threshold() -> None:
    """A threshold of 1 would otherwise make a task its own negative, at an infinite similarity."""
    prompts = _random(3, 8)
    loss = task_contrast(prompts, prompts, torch.eye(3), threshold=1.0, temperature=1.0)
    assert loss.item() == pytest.approx(_naive_nt_bxent(prompts, torch.eye(3), 1.0), rel=1e-5)


def test_losses_are_the_same_under_autocast_and_from_half_precision() -> None:
    """bfloat16 inside the losses would turn temperatures of 0.01 into noise."""
    vision, text = _random(3, 4, 12).bfloat16(), _random(3, 4, 8, seed=1).bfloat16()

    def losses(vision: Tensor, text: Tensor) -> list[Tensor]:
        return [
            contrastive_loss(vision[0, :, :4] * 30),
            layer_alignment(vision, text, similarity="dot", temperature=0.01),
            layer_alignment(vision, text, temperature=0.01),
            task_contrast(vision, text, torch.eye(3), threshold=0.4, temperature=0.5),
        ]

    plain = losses(vision.float(), text.float())
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses(vision.float(), text.float())
    half = losses(vision, text)
    for expected, a, b in zip(plain, cast, half, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, expected)
        torch.testing.assert_close(b, expected, rtol=1e-2, atol=1e-6)


def test_unusable_settings_name_the_field() -> None:
    x = _random(3, 4)
    with pytest.raises(ConfigError, match="temperature"):
        nt_bxent(x, torch.eye(3), 0.0)
    with pytest.raises(ConfigError, match="empty"):
        nt_bxent(x, torch.eye(3), 1.0, empty="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sigmoid"):
        nt_bxent(x, torch.eye(3), 1.0, sigmoid="none")  # type: ignore[arg-type]
    prompt = _random(2, 3, 4)
    with pytest.raises(ConfigError, match="temperature"):
        layer_alignment(prompt, prompt, temperature=-1.0)
    with pytest.raises(ConfigError, match="similarity"):
        layer_alignment(prompt, prompt, similarity="l2", temperature=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layers and length"):
        layer_alignment(prompt, prompt[:1], temperature=1.0)
