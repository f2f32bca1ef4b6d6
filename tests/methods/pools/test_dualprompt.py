"""DualPrompt: a task trains its own experts and key; a test sample goes to the nearest key."""

import dataclasses
from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.keys import feature_query
from system.methods.pools.dualprompt import DualPrompt, Expert
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import LAYERS, TEXTS, backbone
from tests.methods.pool_parts import (
    inputs,
    made,
    parameters_at_published_sizes,
    tasks_of,
    train_step,
)

SMALL = {"prompt_length": 2}


def dual(tasks: int = 1, **section: Any) -> StreamMethod:
    return made("dualprompt", tasks=tasks, **(SMALL | section))


def inner(method: StreamMethod) -> DualPrompt:
    found = method.of(0)
    assert isinstance(found, DualPrompt)
    return found


def expert_of(method: StreamMethod, task: int) -> Expert:
    expert = inner(method).experts[task]
    assert isinstance(expert, Expert)
    return expert


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_uses_the_task_s_experts_behind_the_general_prompts(modality: Modality) -> None:
    """Experts chosen by key while training would be taught by other tasks' samples."""
    method = dual(tasks=3)
    given = inputs(method, modality)
    features, _ = method.encode_training(backbone(), modality, given)
    general, expert = inner(method).general[modality], expert_of(method, 2).prompt[modality]
    for i in range(len(given)):
        prompt = torch.cat([general, expert])
        assert len(prompt) == LAYERS  # two general ones, and the one layer that is left
        expected = backbone()(modality, given[i : i + 1], prompt[None], deep="replace")
        torch.testing.assert_close(features[i : i + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_test_sample_gets_the_experts_of_its_nearest_key(modality: Modality) -> None:
    method = dual(tasks=len(TEXTS))
    given = inputs(method, modality)
    query = feature_query(backbone(), modality, given, method.placeholders)
    nearest = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        for sample, task in enumerate(nearest.tolist()):
            expert_of(method, task).key[modality].copy_(3 * query[sample])
    features = method.encode(backbone(), modality, given, tasks_of(method))
    general = inner(method).general[modality]
    for i, task in enumerate(nearest.tolist()):
        prompt = torch.cat([general, expert_of(method, task).prompt[modality]])
        expected = backbone()(modality, given[i : i + 1], prompt[None], deep="replace")
        torch.testing.assert_close(features[i : i + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_key_of_the_task_comes_nearer_to_its_samples(modality: Modality) -> None:
    """Keys that do not move send test samples to random tasks."""
    method = dual(tasks=2, match_weight=0.5)
    given = inputs(method, modality)
    query = feature_query(backbone(), modality, given, method.placeholders)
    key = expert_of(method, 1).key[modality].detach().clone()
    term = train_step(method)[f"{modality}.key_match"]
    torch.testing.assert_close(term, 0.5 * (1 - torch.cosine_similarity(query, key[None])))
    moved = expert_of(method, 1).key[modality].detach()
    before, after = (torch.cosine_similarity(query, k[None]).mean() for k in (key, moved))
    assert after > before


def test_general_prompts_go_on_and_older_experts_stay() -> None:
    method = dual()
    train_step(method)
    general = {m: inner(method).general[m].clone() for m in MODALITIES}
    old = {n: p.clone() for n, p in expert_of(method, 0).named_parameters()}
    method.begin_task(1, backbone())
    assert all(torch.equal(inner(method).general[m], general[m]) for m in MODALITIES)
    train_step(method)
    assert all(not torch.equal(inner(method).general[m], general[m]) for m in MODALITIES)
    assert all(torch.equal(p, old[n]) for n, p in expert_of(method, 0).named_parameters())


@pytest.mark.parametrize(
    ("section", "shared", "own"),
    [({}, 51_200, 77_824), ({"entry": "prefix", "general_length": 5}, 25_600, 154_624)],
)
def test_parameters_at_the_published_sizes(section: dict[str, Any], shared: int, own: int) -> None:
    """The formula of the docstring, for ViT-B/16 and twelve tasks."""
    found = parameters_at_published_sizes("dualprompt", 12, **section)
    assert found == (shared + own, shared + 12 * own)


@pytest.mark.parametrize("modality", MODALITIES)
def test_as_prefixes_both_kinds_enter_their_layers_in_their_lengths(modality: Modality) -> None:
    """A text keeps all its places: no placeholder is left for what is no token."""
    method = dual(tasks=2, entry="prefix", general_length=1)
    assert method.placeholders == 0
    given = inputs(method, modality)
    features, _ = method.encode_training(backbone(), modality, given)
    general, expert = inner(method).general[modality], expert_of(method, 1).prompt[modality]
    assert (general.shape[:2], expert.shape[:2]) == ((2, 2 * 1), (1, 2 * 2))
    layers = [general[:1], general[1:], expert]
    expected = backbone()(modality, given, layers, deep="prefix")
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_each_tower_has_experts_in_the_layers_it_has() -> None:
    """The shallower tower must not cost the deeper one its prompts."""
    shape = dataclasses.replace(backbone().shape, vision_layers=6, text_layers=3)
    method = build_method({"name": "dualprompt"} | SMALL, RetrievalSetting(shape, 0))
    method.begin_task(0, backbone())
    assert {m: len(expert_of(method, 0).prompt[m]) for m in MODALITIES} == {"vision": 3, "text": 1}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"general_layers": LAYERS},
            r"method\.general_layers=3 leaves no layer for expert prompts",
        ),
        ({"expert_layers": 0}, r"method: expert_layers=0 must be at least 1"),
        ({"text_prompt_length": 0}, r"method: text_prompt_length=0"),
        ({"match_weight": -1.0}, r"method: match_weight=-1\.0 must not be negative"),
        ({"general_length": 5}, r"method: general_length=5 goes with entry=prefix"),
        ({"expert_lenght": 1}, r"unknown key method\.expert_lenght"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dual(**section)
