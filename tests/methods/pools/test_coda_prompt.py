"""CODA-Prompt: prompts as weighted sums of all tasks' components, of which only new ones learn."""

from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, Deep, Modality
from system.errors import ConfigError
from system.methods.keys import feature_query
from system.methods.pools.coda_prompt import (
    KINDS,
    component_weights,
    orthogonal_rows,
    orthogonality,
)
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import LAYERS, backbone
from tests.methods.pool_parts import (
    inputs,
    made,
    parameters_at_published_sizes,
    tasks_of,
    train_step,
)

SMALL = {"components_per_task": 2, "prompt_length": 3}


def coda(tasks: int = 1, **section: Any) -> StreamMethod:
    return made("coda_prompt", tasks=tasks, **(SMALL | section))


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_weights_equal_the_cosines_one_by_one() -> None:
    """The fast way, without the products, against the paper's formula."""
    query, attention, keys = drawn(3, 7), drawn(2, 4, 7, seed=1), drawn(2, 4, 7, seed=2)
    weights = component_weights(query, attention, keys)
    for b in range(3):
        for layer in range(2):
            for m in range(4):
                expected = torch.cosine_similarity(
                    query[b] * attention[layer, m], keys[layer, m], dim=0
                )
                torch.testing.assert_close(weights[b, layer, m], expected)


def test_weights_of_a_query_that_attention_blots_out_are_no_nan() -> None:
    weights = component_weights(torch.zeros(1, 7), drawn(1, 2, 7), drawn(1, 2, 7))
    assert weights.tolist() == [[[0.0, 0.0]]]


def test_orthogonality_is_zero_for_orthonormal_rows_alone() -> None:
    rows = torch.eye(5)[None, :3]
    assert orthogonality(rows) == 0
    torch.testing.assert_close(orthogonality(2 * rows), torch.tensor(3 * 9 / 9.0))
    slow = ((rows[0] + 0.1) @ (rows[0] + 0.1).T - torch.eye(3)).square().mean()
    torch.testing.assert_close(orthogonality(rows + 0.1), slow)


@pytest.mark.parametrize(("old", "count"), [(0, 3), (2, 3), (4, 3), (9, 2)])
def test_new_rows_are_orthogonal_as_far_as_there_is_room(old: int, count: int) -> None:
    """In a stream of many tasks the width runs out: new components must come all the same."""
    width, before = 6, drawn(old, 6, seed=1)
    rows = orthogonal_rows(before, count, torch.Generator().manual_seed(0))
    assert rows.shape == (count, width)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(count))
    fitting = max(0, min(count, width - old))
    products = rows[:fitting] @ torch.cat([before, rows[:fitting]]).T
    expected = torch.cat([torch.zeros(fitting, old), torch.eye(fitting)], dim=1)
    torch.testing.assert_close(products, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("deep", "length"), [("replace", 3), ("prefix", 4)])
@pytest.mark.parametrize("modality", MODALITIES)
def test_features_are_those_under_the_weighted_sum_of_all_components(
    modality: Modality, deep: Deep, length: int
) -> None:
    """As a prefix half of each component is keys and half is values."""
    entry = {"replace": "prompt", "prefix": "prefix"}[deep]
    method = coda(tasks=3, entry=entry, prompt_length=length)
    assert method.placeholders == (0 if deep == "prefix" else length)
    given = inputs(method, modality)
    query = feature_query(backbone(), modality, given, method.placeholders)
    features = method.encode(backbone(), modality, given, tasks_of(method))
    for i in range(len(given)):
        prompt = torch.zeros(LAYERS, length, backbone().shape.width(modality))
        for task in range(3):
            own = {
                kind: method.task_parameters(task)[f"{modality}.{kind}"].detach() for kind in KINDS
            }
            for layer in range(LAYERS):
                for c in range(2):
                    attended = query[i] * own["attention"][layer, c]
                    weight = torch.cosine_similarity(attended, own["key"][layer, c], dim=0)
                    prompt[layer] += weight * own["component"][layer, c]
        expected = backbone()(modality, given[i : i + 1], prompt[None], deep)
        torch.testing.assert_close(features[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_older_components_stay_and_still_serve() -> None:
    """Frozen, they keep what earlier tasks learned; left out, it would be lost."""
    method = coda(tasks=2)
    given, tasks = inputs(method, "vision"), tasks_of(method)
    old = {n: p.clone() for n, p in method.task_parameters(0).items()}
    train_step(method)
    assert all(torch.equal(p, old[n]) for n, p in method.task_parameters(0).items())
    features = method.encode(backbone(), "vision", given, tasks)
    with torch.no_grad():
        method.task_parameters(0)["vision.component"].zero_()
    assert not torch.allclose(method.encode(backbone(), "vision", given, tasks), features)


def test_the_regulariser_sees_older_components_and_teaches_new_ones_alone() -> None:
    method = coda(tasks=2)
    with torch.no_grad():  # the new keys of a tower are copies of the old ones
        new, old = (method.task_parameters(task)["text.key"] for task in (1, 0))
        new.copy_(old)
    term = method.regularisers(None)["orthogonality"]
    assert term > 0.01
    torch.autograd.backward(term)
    assert all(p.grad is None for p in method.task_parameters(0).values())
    gradient = new.grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-3
    doubled = coda(tasks=2, orthogonality_weight=0.2)
    assert doubled.regularisers(None)["orthogonality"] < 1e-6, "new rows start orthogonal"
    assert coda(orthogonality_weight=0.0).regularisers(None) == {}


def test_parameters_at_the_published_sizes() -> None:
    """The formula of the docstring, for ViT-B/16 and twelve tasks."""
    assert parameters_at_published_sizes("coda_prompt", 12) == (491_520, 12 * 491_520)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"components_per_task": 0}, r"method: components_per_task=0 must be at least 1"),
        ({"prompt_depth": 0}, r"method: prompt_depth=0 must be at least 1"),
        ({"text_prompt_length": 0}, r"method: text_prompt_length=0"),
        ({"entry": "prefix"}, r"method: prompt_length=3 must be even"),
        ({"orthogonality_weight": -1.0}, r"orthogonality_weight=-1\.0 must not be negative"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        coda(**section)
