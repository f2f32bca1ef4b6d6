"""The ceiling: a copy of the backbone a task, which starts as the backbone and leaves it alone."""

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import backbone, build, images, tokens, weights


def fine_tuned(tasks: int) -> StreamMethod:
    method = build("fine_tune_per_task")
    method.begin_task(tasks - 1, backbone())
    return method


def inputs_for(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


@pytest.mark.parametrize("modality", MODALITIES)
def test_starts_equal_to_the_backbone(modality: Modality) -> None:
    """A ceiling that starts elsewhere is none."""
    method = fine_tuned(1)
    inputs = inputs_for(method, modality)
    found = method.encode(backbone(), modality, inputs, torch.zeros(5, dtype=torch.long))
    assert torch.equal(found, backbone()(modality, inputs, None))


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_changes_only_the_current_copy(modality: Modality) -> None:
    method, before = fine_tuned(2), weights()
    first = {name: value.clone() for name, value in method.task_parameters(0).items()}
    inputs, tasks = inputs_for(method, modality), torch.ones(5, dtype=torch.long)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.autograd.backward(method.encode(backbone(), modality, inputs, tasks).square().sum())
    optimiser.step()
    tower = "vision_model" if modality == "vision" else "text_model"
    for name, value in method.task_parameters(1).items():
        if f"{tower}.encoder" in name and not name.endswith("k_proj.bias"):
            # (a bias of the keys shifts all attention scores alike: its gradient is 0)
            assert not torch.equal(value, first[name]), f"{name} did not learn"
    assert all(torch.equal(v, first[n]) for n, v in method.task_parameters(0).items())
    assert all(torch.equal(value, before[name]) for name, value in weights().items())
    changed = method.encode(backbone(), modality, inputs, tasks)
    assert not torch.allclose(changed, backbone()(modality, inputs, None), atol=1e-4)
    untouched = method.encode(backbone(), modality, inputs, torch.zeros_like(tasks))
    assert torch.equal(untouched, backbone()(modality, inputs, None))


@pytest.mark.parametrize("modality", MODALITIES)
def test_mixed_tasks_keep_their_rows(modality: Modality) -> None:
    """Rows are encoded task by task: put back in a wrong order, each query gets another's image."""
    method = fine_tuned(3)
    with torch.no_grad():
        for task in range(3):
            for name, value in method.task_parameters(task).items():
                if name.endswith("projection.weight"):
                    value.mul_(task + 1.0)
    inputs, tasks = inputs_for(method, modality), torch.tensor([2, 0, 1, 0, 2])
    found = method.encode(backbone(), modality, inputs, tasks)
    plain = backbone()(modality, inputs, None)
    torch.testing.assert_close(found, plain * (tasks + 1.0)[:, None], rtol=1e-5, atol=1e-5)


def test_logit_scale_is_not_copied() -> None:
    """The temperature is the backbone's: a copy would never get a gradient."""
    names = set(fine_tuned(1).task_parameters(0))
    assert names == {n for n, _ in backbone().named_parameters() if n != "model.logit_scale"}


def test_a_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown key method\.rank"):
        build("fine_tune_per_task", {"rank": 4})
