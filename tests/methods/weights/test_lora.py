"""LoRA through PEFT: low-rank updates of a twin, which starts as the backbone."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from system.backbones.clip import ClipBackbone
from system.backbones.computation import Computation, placed
from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import LAYERS, backbone, build, images, tokens
from tests.methods.pool_parts import tower_pair

TASKS = torch.zeros(5, dtype=torch.long)


def lora(model: DualEncoder | None = None, **section: Any) -> StreamMethod:
    method = build("lora", section)
    method.begin_task(0, model or backbone())
    return method


def inputs_of(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


@pytest.mark.parametrize("modality", MODALITIES)
def test_starts_equal_to_the_backbone(modality: Modality) -> None:
    """B starts at zero: the first step goes away from the frozen backbone, not from elsewhere."""
    method = lora()
    inputs = inputs_of(method, modality)
    found = method.encode(backbone(), modality, inputs, TASKS)
    assert torch.equal(found, backbone()(modality, inputs, None))


@pytest.mark.parametrize("modality", MODALITIES)
def test_features_are_those_of_the_updated_weights(modality: Modality) -> None:
    """h = W0 x + (alpha / r) B A x in every layer: what the equation says, on plain weights."""
    method = lora(rank=3, alpha=6.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.task_parameters(0).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    weights = {name: value.clone() for name, value in backbone().model.state_dict().items()}
    for name, a in method.task_parameters(0).items():
        if ".lora_A." in name:
            b = method.task_parameters(0)[name.replace("lora_A", "lora_B")]
            weight = name.removeprefix("model.").split(".lora_A")[0] + ".weight"
            weights[weight] += 6.0 / 3 * (b @ a).detach()
    model = CLIPModel(backbone().model.config)
    model.load_state_dict(weights)
    inputs = inputs_of(method, modality)
    expected = ClipBackbone(model)(modality, inputs, None)
    found = method.encode(backbone(), modality, inputs, TASKS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, backbone()(modality, inputs, None), atol=1e-3)


def test_on_a_trunk_in_bf16_adapters_are_float32_and_features_the_same_to_the_bit() -> None:
    """Small steps on numbers of eight bits get lost: what trains has to be kept whole."""
    found = []
    for stored in (True, False):
        model = ClipBackbone(copy.deepcopy(backbone().model), computation=Computation("bf16"))
        method = lora(placed(model, torch.device("cpu")) if stored else model)
        parameters = method.task_parameters(0)
        assert {p.dtype for p in parameters.values()} == {torch.float32}
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        features = method.encode(model, "vision", images(), TASKS)
        torch.autograd.backward(features.float().square().sum())
        found.append([features, *(p.grad for p in parameters.values() if p.grad is not None)])
    assert len(found[0]) > LAYERS
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_adapters_are_in_q_and_v_of_every_layer_of_both_towers() -> None:
    names = {name.split(".lora_")[0] for name in lora().task_parameters(0)}
    assert names == {
        f"model.{tower}.encoder.layers.{layer}.self_attn.{projection}"
        for tower in ("vision_model", "text_model")
        for layer in range(LAYERS)
        for projection in ("q_proj", "v_proj")
    }


def test_a_pooling_head_s_projections_are_left_alone() -> None:
    """SigLIP's head names its own like a layer's, and its attention would not run through them."""
    model = tower_pair("siglip")
    section = {"name": "lora", "target_modules": ["out_proj", "fc1"]}
    method = build_method(section, RetrievalSetting(model.shape, 0))
    method.begin_task(0, model)
    assert all(".encoder.layers." in name for name in method.task_parameters(0))
    assert torch.equal(
        method.encode(model, "vision", images(), TASKS), model("vision", images(), None)
    )


def test_parameters_at_the_published_sizes() -> None:
    """The README's table counts r (D + D') over all adapted projections."""
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))
    assert lora(ClipBackbone(model)).parameters_in_all() == 491_520


def test_the_same_adapters_train_on() -> None:
    method = lora()
    first = {id(p) for p in method.task_parameters(0).values()}
    method.begin_task(2, backbone())
    assert {id(p) for p in method.task_parameters(2).values()} == first
    assert method.parameters_in_all() == method.parameters_per_task()


def test_without_peft_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional extra; the check before a run has to find out, not a worker."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"method\.name=lora needs PEFT.*pip install peft"):
        build("lora")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank": 0}, r"method: rank=0 must be at least 1"),
        ({"alpha": 0.0}, r"method: alpha=0\.0 must be above 0"),
        ({"target_modules": []}, r"target_modules=\[\] adapts nothing"),
        ({"target_modules": ["qproj"]}, r"target_modules\[0\]='qproj' is not one of: q_proj"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lora(**section)
