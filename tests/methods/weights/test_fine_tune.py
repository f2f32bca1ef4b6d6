"""Fine-tuning from task to task, all tasks at once, and not at all: three ends of a comparison."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from system.backbones.clip import ClipBackbone
from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.errors import ConfigError
from system.methods.sharing import StreamMethod, method_kind
from tests.methods.method_parts import backbone, build, images, tokens
from tests.methods.pool_parts import tower_pair

TUNED = ("fine_tune", "joint")
TASKS = torch.zeros(5, dtype=torch.long)


def begun(name: str, tasks: int = 1, model: DualEncoder | None = None) -> StreamMethod:
    method = build(name)
    method.begin_task(tasks - 1, model or backbone())
    return method


def inputs_of(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


@pytest.mark.parametrize("name", [*TUNED, "zero_shot"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_starts_equal_to_the_backbone(name: str, modality: Modality) -> None:
    method = begun(name)
    inputs = inputs_of(method, modality)
    found = method.encode(backbone(), modality, inputs, TASKS)
    assert torch.equal(found, backbone()(modality, inputs, None))


def test_the_next_task_goes_on_from_the_last_one() -> None:
    """Started anew, it would forget nothing of the pre-training and everything else."""
    method = begun("fine_tune")
    with torch.no_grad():
        for weight in method.task_parameters(0).values():
            weight.add_(0.01)
    before = [weight.clone() for weight in method.task_parameters(0).values()]
    method.begin_task(1, backbone())
    after = method.task_parameters(1)
    assert all(torch.equal(a, b) for a, b in zip(after.values(), before, strict=True))
    assert all(weight.requires_grad for weight in after.values())
    assert method.parameters_in_all() == method.parameters_per_task()


@pytest.mark.parametrize(
    ("name", "learning"),
    [("fine_tune", [True] * 3), ("joint", [False, False, True]), ("zero_shot", [False] * 3)],
)
def test_when_something_is_learned(name: str, learning: list[bool]) -> None:
    method = method_kind({"name": name}, "retrieval")
    assert [method.learns_at(task, 3) for task in range(3)] == learning


def test_parameters_at_the_published_sizes() -> None:
    """The README's table: every weight but the temperature."""
    with torch.device("meta"):
        model = ClipBackbone(CLIPModel(CLIPConfig(vision_config={"patch_size": 16})))
    assert begun("fine_tune", model=model).parameters_in_all() == 149_620_736
    assert begun("zero_shot", model=model).parameters_in_all() == 0


def test_what_only_the_pre_training_loss_reads_is_not_trained() -> None:
    """Such a weight never gets a gradient, and weight decay alone would move it."""
    names = set(begun("fine_tune", model=tower_pair("siglip")).task_parameters(0))
    all_names = {name for name, _ in tower_pair("siglip").named_parameters()}
    assert all_names - names == {"model.logit_scale", "model.logit_bias"}


@pytest.mark.parametrize("name", [*TUNED, "zero_shot"])
def test_a_setting_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key method\.rank"):
        build(name, {"rank": 4})
