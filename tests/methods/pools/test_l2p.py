"""L2P: each sample's own prompts from one pool, and a pull of the chosen keys to the queries."""

from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.methods.keys import cosines, feature_query, token_query
from system.methods.pools.l2p import (
    PromptPool,
    choose_prompts,
    chosen_prompts,
    pull,
)
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import backbone, build, released
from tests.methods.pool_parts import (
    alone,
    flat,
    inputs,
    made,
    parameters_at_published_sizes,
    tasks_of,
    train_step,
)

SMALL = {"pool_size": 6, "top_k": 2, "prompt_length": 2}
SIMILARITY = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.1, 0.8, 0.7, 0.0], [0.3, 0.2, 0.6, 0.4]])


def l2p(**section: Any) -> StreamMethod:
    return made("l2p", **(SMALL | section))


def pool_of(method: StreamMethod, modality: Modality) -> PromptPool:
    pool = method.of(0).get_submodule(modality)
    assert isinstance(pool, PromptPool)
    return pool


def similarity_of(method: StreamMethod, modality: Modality) -> Tensor:
    given = inputs(method, modality)
    query = token_query(backbone(), modality, given, method.placeholders)
    return cosines(query, pool_of(method, modality).keys)


def test_each_sample_gets_its_own_nearest_prompts() -> None:
    assert choose_prompts(SIMILARITY, 2).tolist() == [[0, 2], [1, 2], [2, 3]]


def test_batchwise_gives_all_the_most_frequent_ones() -> None:
    """The released arithmetic: prompt 2 is among everybody's, 0 among two samples'."""
    similarity = torch.cat([SIMILARITY, SIMILARITY[:1]])
    assert choose_prompts(similarity, 2, batchwise=True).tolist() == [[2, 0]] * 4
    same = choose_prompts(SIMILARITY[:1], 2, batchwise=True)
    assert sorted(same[0].tolist()) == [0, 2]


def test_chosen_prompts_stand_one_after_the_other() -> None:
    pool = torch.arange(12.0).reshape(3, 2, 2)
    expected = torch.stack([torch.cat([pool[2], pool[0]]), torch.cat([pool[1], pool[2]])])
    assert torch.equal(chosen_prompts(pool, torch.tensor([[2, 0], [1, 2]])), expected)


@pytest.mark.parametrize("modality", MODALITIES)
def test_features_are_those_under_the_nearest_prompts(modality: Modality) -> None:
    """Prompts of other keys, or at another place, would train and give wrong figures."""
    method = l2p()
    pool, given = pool_of(method, modality), inputs(method, modality)
    features = method.encode(backbone(), modality, given, tasks_of(method))
    for i, row in enumerate(similarity_of(method, modality).tolist()):
        nearest = sorted(range(len(row)), key=row.__getitem__)[:-3:-1]
        prompt = torch.cat([pool.prompts[k] for k in nearest])
        expected = backbone()(modality, given[i : i + 1], prompt[None, None])
        torch.testing.assert_close(features[i : i + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_pull_is_the_distance_to_the_chosen_keys_and_shrinks(modality: Modality) -> None:
    """A pull of the wrong sign would push keys away until they are chosen for nothing."""
    method = l2p(pull_weight=0.5)
    similarity = similarity_of(method, modality)
    term = train_step(method)[f"{modality}.pull"]
    expected = 0.5 * (1 - similarity.topk(2).values).sum(1)
    torch.testing.assert_close(term, expected)
    after = similarity_of(method, modality)
    chosen = choose_prompts(similarity, 2)
    assert pull(after, chosen).mean() > pull(similarity, chosen).mean()
    other = l2p(pull_weight=1.0)
    torch.testing.assert_close(train_step(other)[f"{modality}.pull"], 2 * expected)


def test_only_chosen_prompts_learn() -> None:
    method = l2p()
    before = {m: pool_of(method, m).prompts.clone() for m in MODALITIES}
    chosen = {
        m: set(choose_prompts(similarity_of(method, m), 2).flatten().tolist()) for m in before
    }
    train_step(method)
    for modality, old in before.items():
        moved = (pool_of(method, modality).prompts != old).flatten(1).any(1)
        assert set(moved.nonzero()[:, 0].tolist()) == chosen[modality]


def test_all_tasks_share_the_pool() -> None:
    """The next task goes on from what the last one learned, and what is saved does not grow."""
    method = l2p()
    train_step(method)
    before = flat(method)
    method.begin_task(2, backbone())
    assert method.known_tasks == 3
    assert torch.equal(flat(method), before)
    assert method.parameters_in_all() == method.parameters_per_task() == len(before)
    first, last = method.task_parameters(0), method.task_parameters(2)
    assert all(first[name] is last[name] for name in last)


#: The options that make it the L2P of LPI's comparison.
OF_LPI: dict[str, Any] = {
    "pool_size": 12,
    "prompt_length": 4,
    "top_k": 4,
    "pull_weight": 0.0,
    "query": "tokens",
    "entry": "replace",
    "towers": ("vision",),
    "selection": "batchwise_leaking",
}


@pytest.mark.parametrize(
    ("section", "count"),
    [({"query": "feature"}, 74_240), ({}, 76_800), (OF_LPI, 12 * 4 * 768)],
)
def test_parameters_at_the_published_sizes(section: dict[str, Any], count: int) -> None:
    """The formula of the docstring, for ViT-B/16 and twelve tasks."""
    assert parameters_at_published_sizes("l2p", 12, **section) == (count, count)


def test_the_released_l2p_is_that_of_lpi_s_comparison() -> None:
    assert released("l2p") == OF_LPI | {"towers": ["vision"], "sharing": "shared"}


def test_the_query_is_the_frozen_feature_or_the_mean_token() -> None:
    """They choose other prompts: a comparison has to say which one it made."""
    found = []
    for query in ("feature", "tokens"):
        method = l2p(query=query)
        given = inputs(method, "vision")
        asked = {"feature": feature_query, "tokens": token_query}[query]
        keys = pool_of(method, "vision").keys
        chosen = choose_prompts(cosines(asked(backbone(), "vision", given, 0), keys), 2)
        prompt = chosen_prompts(pool_of(method, "vision").prompts, chosen)[:, None]
        features = method.encode(backbone(), "vision", given, tasks_of(method))
        torch.testing.assert_close(features, backbone()("vision", given, prompt))
        found.append(features)
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_the_l2p_of_lpi_s_comparison_is_a_combination_of_options() -> None:
    """One set of prompts for the batch, over its first tokens; texts as they are; fixed keys."""
    method = l2p(**OF_LPI)
    assert method.placeholders == 0
    given, tasks = inputs(method, "vision"), tasks_of(method)
    pool = pool_of(method, "vision")
    similarity = cosines(token_query(backbone(), "vision", given, 0), pool.keys)
    (chosen,) = {tuple(r) for r in choose_prompts(similarity, 4, batchwise=True).tolist()}
    prompt = torch.cat([pool.prompts[k] for k in chosen])[None, None]
    expected = backbone()("vision", given, prompt, "overwrite")
    found = method.encode(backbone(), "vision", given, tasks)
    torch.testing.assert_close(found, expected)
    inserted = backbone()("vision", given, prompt)
    assert not torch.allclose(inserted, found, atol=1e-4)
    texts = inputs(method, "text")
    assert torch.equal(
        method.encode(backbone(), "text", texts, tasks), backbone()("text", texts, None)
    )
    keys = pool.keys.clone()
    assert train_step(method) == {}
    assert torch.equal(pool.keys, keys)
    assert set(method.task_state(0)) == {"vision.prompts", "vision.keys"}


@pytest.mark.parametrize(
    ("section", "leaks"),
    [
        ({"selection": "per_sample"}, False),
        ({"selection": "batchwise_leaking"}, True),
        ({"selection": released("l2p")["selection"]}, True),
    ],
)
def test_only_the_named_option_and_the_released_code_leak(
    section: dict[str, Any], leaks: bool
) -> None:
    """Batch-wise choice makes a sample's feature depend on the others of its batch."""
    method = build("l2p", SMALL | section)
    method.begin_task(0, backbone())
    given = inputs(method, "vision")
    together = method.encode(backbone(), "vision", given, tasks_of(method))
    single = alone(method, backbone(), "vision", given)
    assert torch.allclose(together, single, rtol=1e-4, atol=1e-5) != leaks


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"top_k": 7}, r"method: top_k=7 prompts cannot be chosen from pool_size=6"),
        ({"pool_size": 0}, r"method: pool_size=0 must be at least 1"),
        ({"text_prompt_length": 0}, r"method: text_prompt_length=0"),
        ({"pull_weight": -1.0}, r"method: pull_weight=-1\.0 must not be negative"),
        ({"towers": ()}, r"method: towers=\[\] must name vision, text"),
        ({"selection": "batch"}, r"'batch' is not one of: per_sample, batchwise_leaking"),
        ({"top_k": 5, "prompt_length": 5}, r"top_k=5 prompts of length 5 take 25 tokens"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        l2p(**section)
