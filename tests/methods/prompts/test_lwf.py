"""LwF: the prompts before a task teach it, on its own batches, and nothing is kept for that."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, unit
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.methods.prompts.lwf import Lwf, distillation
from system.methods.sharing import StreamMethod, method_kind
from tests.methods.method_parts import TEXTS, backbone, build, images, tokens

ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))


def lwf(**section: Any) -> StreamMethod:
    sizes = {"prompt_length": 2, "text_prompt_length": 3, "init_std": 0.5}
    method = build("lwf", sizes | section)
    method.begin_task(0, backbone())
    return method


def moved(method: StreamMethod, by: float = 0.3) -> StreamMethod:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.task_parameters(0).values():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return method


def logits(method: StreamMethod) -> Tensor:
    first = torch.zeros(len(TEXTS), dtype=torch.long)
    vision = unit(method.encode(backbone(), "vision", images(), first))
    text = unit(method.encode(backbone(), "text", tokens(method), first))
    return backbone().logit_scale * vision @ text.T


def terms(method: StreamMethod) -> dict[str, float]:
    """The loss terms of a step, whose gradients are in the parameters."""
    method.zero_grad()
    batch = TokenBatch(images(), tokens(method))
    encoder = PromptedEncoder(method, backbone())
    found = accumulate_gradients(encoder, [batch], ALONE, backbone().logit_scale, None)
    return {name: float(value) for name, value in found.items()}


def test_distillation_is_the_divergence_written_out() -> None:
    """Against the sum over scores; a mean over both dimensions would be B times too small."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, generator=generator) for _ in range(2))
    slow = 0.0
    for row in range(3):
        p, q = (torch.softmax(x[row] / 2.0, 0).tolist() for x in (teacher, student))
        slow += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(2.0**2 * slow / 3, rel=1e-5)


def test_the_teacher_is_what_the_task_before_left() -> None:
    """A teacher that moves along teaches nothing."""
    method = moved(lwf(weight=0.5))
    assert "distillation" not in terms(method), "the first task has no teacher"
    teacher = logits(method).detach()
    method.begin_task(1, backbone())
    assert terms(method)["distillation"] == pytest.approx(0, abs=1e-5)
    student = logits(moved(method))
    both = [distillation(student, teacher, 2.0), distillation(student.T, teacher.T, 2.0)]
    expected = 0.5 * torch.stack(both).mean()
    assert terms(method)["distillation"] == pytest.approx(expected.item(), rel=1e-4)
    gradients = torch.autograd.grad(expected, list(method.task_parameters(1).values()))
    own = method.task_parameters(1)
    with_term = [p.grad.clone() for p in own.values() if p.grad is not None]
    inner = method.of(0)
    assert isinstance(inner, Lwf)
    inner.weight = 0.0
    terms(method)
    without = [p.grad for p in own.values() if p.grad is not None]
    for both_losses, plain, alone in zip(with_term, without, gradients, strict=True):
        torch.testing.assert_close(both_losses - plain, alone, rtol=1e-3, atol=1e-5)


def test_a_loaded_stream_has_the_same_teacher() -> None:
    """After a resume the next task would otherwise be taught by random prompts."""
    source, target = moved(lwf()), lwf()
    saved = {name: tensor.clone() for name, tensor in source.task_state(0).items()}
    assert set(saved) == set(source.task_parameters(0)) == set(MODALITIES), "nothing more is saved"
    target.load_task(0, saved, backbone())
    for method in (source, target):
        method.begin_task(1, backbone())
        moved(method)
    found = [terms(method)["distillation"] for method in (source, target)]
    assert found[0] == found[1] > 0.01


def test_a_large_weight_holds_the_similarities() -> None:
    """What the term is for: a step of the same length forgets less."""
    drift = []
    for weight in (0.0, 50.0):
        method = moved(lwf(weight=weight))
        teacher = logits(method).detach()
        method.begin_task(1, backbone())
        for _ in range(20):
            terms(method)
            with torch.no_grad():
                for parameter in method.task_parameters(1).values():
                    assert parameter.grad is not None
                    parameter.sub_(0.05 * parameter.grad / parameter.grad.norm())
        drift.append(float((logits(method).detach() - teacher).abs().mean()))
    assert drift[1] < 0.7 * drift[0]


def test_a_grounder_is_refused_by_reason() -> None:
    with pytest.raises(ConfigError, match="distils similarities"):
        method_kind({"name": "lwf"}, "grounding")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weight": -1.0}, r"weight=-1\.0 must not be negative"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ({"prompt_length": 0}, r"prompt_length=0 must be at least 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lwf(**section)
