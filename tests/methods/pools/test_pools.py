"""What all pools of prompts promise: a choice per sample, frozen queries, seeds, room for words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.keys import cosines, feature_query, token_query
from system.methods.sharing import StreamMethod, build_method, method_kind
from tests.backbones.small_clip import CONTEXT
from tests.methods.method_parts import TEXTS
from tests.methods.pool_parts import (
    KINDS,
    alone,
    flat,
    inputs,
    made,
    tasks_of,
    tower_pair,
    train_step,
)

Query = Callable[[DualEncoder, Modality, Tensor, int], Tensor]

#: Each method in its paper's form, and as it was before that was an option.
SMALL: dict[str, dict[str, Any]] = {
    "l2p": {"prompt_length": 2, "top_k": 3, "query": "feature"},
    "l2p by tokens": {"prompt_length": 2, "top_k": 3},
    "dualprompt": {"prompt_length": 3, "general_length": 1, "entry": "prefix"},
    "dualprompt as tokens": {"prompt_length": 3},
    "coda_prompt": {"prompt_length": 4, "components_per_task": 2, "entry": "prefix"},
    "coda_prompt as tokens": {"prompt_length": 3, "components_per_task": 2},
}
NAMES = sorted(SMALL)
#: The other ways leave a text its room.
IN_TEXTS = ["l2p", "dualprompt as tokens", "coda_prompt as tokens"]


def pool(label: str, kind: str = "clip", *, tasks: int = 1, **section: Any) -> StreamMethod:
    """A method of `SMALL` with its last task begun."""
    return made(label.split()[0], kind, tasks=tasks, **(SMALL[label] | section))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_sample_s_feature_does_not_depend_on_its_batch(
    name: str, modality: Modality, kind: str
) -> None:
    """Else figures change with the test batch's size and order, and leak between samples."""
    method, model = pool(name, kind, tasks=3), tower_pair(kind)
    given = inputs(method, modality, kind)
    together = method.encode(model, modality, given, tasks_of(method))
    torch.testing.assert_close(
        together, alone(method, model, modality, given), rtol=1e-4, atol=1e-5
    )
    assert together.shape == (len(TEXTS), model.shape.feature_width)
    plain = model(modality, given, None)
    assert (together - plain).abs().max() > 1e-4, "no prompt entered"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_training_moves_every_parameter_of_the_task_and_nothing_else(name: str, kind: str) -> None:
    """A parameter without gradient is counted, saved, and learns nothing."""
    method, model = pool(name, kind, tasks=2), tower_pair(kind)
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    weights = {n: p.clone() for n, p in model.state_dict().items()}
    own = {n: p.clone() for n, p in method.task_parameters(1).items()}
    train_step(method, kind)
    for key, value in method.task_parameters(1).items():
        assert value.grad is not None, key
        assert value.grad.isfinite().all(), key
        assert not torch.equal(value, own[key]), f"{key} did not learn"
    for key, value in method.named_parameters():
        assert key not in frozen or torch.equal(value, frozen[key]), f"{key} moved"
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", [feature_query, token_query])
def test_a_text_s_query_does_not_depend_on_the_room_left_for_its_prompt(
    query: Query, kind: str
) -> None:
    """A query of placeholders would tell little of the text."""
    model = tower_pair(kind)
    without = query(model, "text", model.tokenize(TEXTS), 0)
    torch.testing.assert_close(query(model, "text", model.tokenize(TEXTS, 5), 5), without)
    similarity = cosines(without, without)
    assert similarity.fill_diagonal_(0).max() < 0.999, "texts look alike"


@pytest.mark.parametrize("name", NAMES)
def test_needs_no_router(name: str) -> None:
    """The stage would else fit, save and ask a router that decides nothing."""
    assert not method_kind({"name": name.split()[0]}, "retrieval").needs_router


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_follow_the_seed_alone(name: str) -> None:
    shape = tower_pair("clip").shape

    def start(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        method = build_method(
            {"name": name.split()[0]} | SMALL[name], RetrievalSetting(shape, seed)
        )
        method.begin_task(1, tower_pair("clip"))
        return flat(method)

    assert torch.equal(start(1, 1), start(1, 2))
    assert not torch.equal(start(1, 1), start(2, 1))


@pytest.mark.parametrize("name", IN_TEXTS)
def test_prompts_that_leave_no_room_for_a_word_are_refused_at_once(name: str) -> None:
    """Found only at the first batch, it would cost the preparation of a run."""
    with pytest.raises(ConfigError, match=rf"context has {CONTEXT}.*method\.text_prompt_length"):
        pool(name, prompt_length=CONTEXT - 2)
    method = pool(name, prompt_length=CONTEXT, text_prompt_length=1)
    assert method.placeholders == SMALL[name].get("top_k", 1)
    train_step(method)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_do_not_change_what_is_learned(name: str) -> None:
    """Figures would else depend on the number of workers that share the global batch."""
    found = []
    for pieces in (1, 2, 4):
        method, model = pool(name, tasks=2), tower_pair("clip")
        given = (inputs(method, modality)[:4].chunk(pieces) for modality in MODALITIES)
        parts = [TokenBatch(*pair) for pair in zip(*given, strict=True)]
        group = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
        terms = accumulate_gradients(
            PromptedEncoder(method, model), parts, group, model.logit_scale, None
        )
        found.append((terms, {n: p.grad for n, p in method.task_parameters(1).items()}))
    terms_of = {"l2p": "pull", "dualprompt": "key_match", "coda_prompt": "orthogonality"}
    own = terms_of[name.split()[0]]
    assert set(found[0][0]) == {"contrastive", own}
    for terms, gradients in found[1:]:
        torch.testing.assert_close(terms, found[0][0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-3, atol=1e-6)
