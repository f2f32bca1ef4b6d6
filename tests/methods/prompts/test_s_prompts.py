"""S-Prompts: each task's prompts are its own, enter the first layer, and have their known size."""

from typing import Any

import pytest
import torch

from system.backbones.dual_encoder import MODALITIES, BackboneShape, Modality
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import backbone, build, images, tokens

VIT_B16 = BackboneShape(12, 12, 768, 512, 512, 224, 77)


def s_prompts(tasks: int, **section: Any) -> StreamMethod:
    method = build("s_prompts", {"prompt_length": 4, **section})
    method.begin_task(tasks - 1, backbone())
    return method


def test_parameters_a_task_at_the_published_sizes() -> None:
    """The README's table counts Nv Dv + Nt Dt a task."""
    method = build_method({"name": "s_prompts"}, RetrievalSetting(VIT_B16, 0))
    method.begin_task(1, backbone())
    assert method.parameters_per_task() == 10 * 768 + 16 * 512 == 15_872
    assert method.parameters_in_all() == 2 * 15_872


def test_text_prompts_may_be_as_long_as_the_image_prompts() -> None:
    method = s_prompts(1, text_prompt_length=None)
    assert method.placeholders == 4
    assert {p.shape[0] for p in method.task_parameters(0).values()} == {4}


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_prompt_enters_the_first_layer_only(modality: Modality) -> None:
    """As published; more layers would be another method with more parameters."""
    method = s_prompts(1, text_prompt_length=3)
    prompt = method.of(0).prompt(modality)
    assert prompt is not None
    length = {"vision": 4, "text": 3}[modality]
    assert prompt.shape == (1, length, backbone().shape.width(modality))
    inputs = images() if modality == "vision" else tokens(method)
    found = method.encode(backbone(), modality, inputs, torch.zeros(5, dtype=torch.long))
    assert torch.equal(found, backbone()(modality, inputs, prompt[None]))


def test_tasks_are_independent() -> None:
    """A task that started from another's prompts would not be one of S-Prompts."""
    method = s_prompts(2, text_prompt_length=3)
    with torch.no_grad():
        for parameter in method.task_parameters(1).values():
            parameter.zero_()
    method.begin_task(2, backbone())
    for name, third in method.task_parameters(2).items():
        assert third.abs().max() > 0
        assert not torch.equal(third, method.task_parameters(0)[name])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prompt_length": 0}, r"method: prompt_length=0 must be at least 1"),
        ({"text_prompt_length": 0}, r"method: text_prompt_length=0"),
        ({"init_std": -1.0}, r"init_std=-1\.0 must not be negative"),
        ({"prompt_depth": 3}, r"unknown key method\.prompt_depth"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        s_prompts(1, **section)
