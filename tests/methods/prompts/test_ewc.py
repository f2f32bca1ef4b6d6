"""EWC: the Fisher information of a task, the penalty it makes of later ones, and what is kept."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.methods.base import TaskBatch
from system.methods.prompts.ewc import Ewc
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import backbone, build, images, tokens
from tests.methods.shared_parts import retrieval_loss

ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
FEATURES = {m: torch.zeros(1, 4) for m in MODALITIES}


def ewc(task: int = 0, **section: Any) -> StreamMethod:
    sizes = {"prompt_length": 2, "text_prompt_length": 3, "strength": 6.0}
    method = build("ewc", sizes | section)
    method.begin_task(task, backbone())
    return method


def inner(method: StreamMethod) -> Ewc:
    found = method.of(0)
    assert isinstance(found, Ewc)
    return found


def given(gradients: Mapping[str, Tensor]) -> TaskBatch:
    return TaskBatch([], lambda: dict(gradients))


def drawn(method: StreamMethod, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = method.task_parameters(0)
    return {name: torch.randn(p.shape, generator=generator) for name, p in own.items()}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_fisher_is_the_mean_square_of_a_task_and_adds_up_over_tasks(decay: float) -> None:
    """By hand: (1 + 9) / 2 of the first task, which the decay weighs, and 4 of the second."""
    method = ewc(decay=decay)
    ones = {name: torch.ones_like(p.detach()) for name, p in method.task_parameters(0).items()}
    method.end_task(FEATURES, [given(ones), given({n: -3 * v for n, v in ones.items()})])
    method.begin_task(1, backbone())
    method.end_task(FEATURES, [given({n: 2 * v for n, v in ones.items()})])
    for name, one in ones.items():
        assert torch.equal(method.task_state(1)[f"fisher_{name}"], (5 * decay + 4) * one)


def test_the_penalty_and_its_gradient_are_those_of_the_equation() -> None:
    """Against the sum written out; a wrong factor would be another strength than the config's."""
    method = ewc()
    gradients = drawn(method, 0)
    method.end_task(FEATURES, [given(gradients)])
    start = {name: p.detach().clone() for name, p in method.task_parameters(0).items()}
    method.begin_task(1, backbone())
    assert method.loss_terms(None, {})["ewc"].item() == 0, "the parameters are where they were"
    moves = drawn(method, 1)
    with torch.no_grad():
        for name, parameter in method.task_parameters(1).items():
            parameter.add_(moves[name])
    term = method.loss_terms(None, {})["ewc"]
    slow = 0.0
    for name, parameter in method.task_parameters(1).items():
        moved = (parameter.detach() - start[name]).flatten().tolist()
        for fisher, move in zip(gradients[name].square().flatten().tolist(), moved, strict=True):
            slow += 6.0 / 2 * fisher * move**2
    assert float(term.detach()) == pytest.approx(slow, rel=1e-4)
    torch.autograd.backward(term)
    for name, parameter in method.task_parameters(1).items():
        expected = 6.0 * gradients[name].square() * (parameter.detach() - start[name])
        torch.testing.assert_close(parameter.grad, expected)


def test_the_first_task_has_no_penalty() -> None:
    """It would be held at its random start."""
    method = ewc()
    with torch.no_grad():
        for parameter in method.task_parameters(0).values():
            parameter.add_(1.0)
    assert method.loss_terms(None, {}) == {}


def test_a_batch_s_gradient_is_that_of_the_contrastive_loss_alone() -> None:
    """The penalty of earlier tasks in it would count them twice."""
    method = ewc()
    method.end_task(FEATURES, [given(drawn(method, 0))])
    method.begin_task(1, backbone())
    with torch.no_grad():
        for parameter in method.task_parameters(1).values():
            parameter.add_(0.1)
    parameters = method.task_parameters(1)
    expected = torch.autograd.grad(retrieval_loss(method), list(parameters.values()))
    batch, scale = TokenBatch(images(), tokens(method)), backbone().logit_scale
    encoder = PromptedEncoder(method, backbone())
    found: list[dict[str, Tensor]] = []
    for own_terms in (False, True):
        method.zero_grad()
        terms = accumulate_gradients(encoder, [batch], ALONE, scale, None, own_terms=own_terms)
        assert terms["ewc"] > 0
        found.append({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})
    for (name, alone), plain in zip(found[0].items(), expected, strict=True):
        torch.testing.assert_close(alone, plain, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found[1][name], alone, atol=1e-4)


def test_what_is_kept_comes_back_with_the_adapter() -> None:
    """After a resume the next task would otherwise be held by nothing."""
    source, target = ewc(), ewc()
    source.end_task(FEATURES, [given(drawn(source, 0))])
    target.load_task(0, source.task_state(0), backbone())
    for method in (source, target):
        method.begin_task(1, backbone())
        with torch.no_grad():
            for parameter in method.task_parameters(1).values():
                parameter.add_(0.1)
    terms = [method.loss_terms(None, {})["ewc"] for method in (source, target)]
    assert terms[0] > 0
    assert torch.equal(*terms)
    assert source.parameters_per_task() == sum(p.numel() for p in inner(source).parameters())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"strength": -1.0}, r"strength=-1\.0 must not be negative"),
        ({"decay": 1.5}, r"decay=1\.5 must be at most 1"),
        ({"prompt_length": 0}, r"prompt_length=0 must be at least 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ewc(**section)
