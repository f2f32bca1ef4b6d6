"""Precision, checkpointing and compilation change speed and memory, not what is computed."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from system.backbones.computation import COMPILERS, Computation, placed
from system.backbones.dual_encoder import MODALITIES, Deep, Modality
from system.backbones.tower_pair import TowerPair
from system.config.schema import Precision
from system.errors import ConfigError
from tests.backbones.small_backbones import LAYERS, Kind, gradient, inputs_for, prompt_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_automatic_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on a CPU without it would be slow and coarse; fp32 on a GPU takes twice the memory."""
    for native, precision in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr("system.config.precision.cpu_has_bf16", lambda has=native: has)
        assert Computation().precision_on(CPU) == precision
    for capability, precision in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert Computation().precision_on(GPU) == precision
    assert Computation("fp32").precision_on(GPU) == "fp32"
    assert Computation("bf16").precision_on(CPU) == "bf16"


@pytest.mark.parametrize("modality", MODALITIES)
def test_bf16_is_near_fp32_and_trains(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    coarse = kind.load(str(checkpoint), Computation("bf16"))
    inputs, prompt = inputs_for(pair, modality), prompt_for(pair, modality)
    for entered in (None, prompt):
        expected, found = pair(modality, inputs, entered), coarse(modality, inputs, entered)
        assert not torch.equal(found.float(), expected)
        similarity = torch.nn.functional.cosine_similarity(found.float(), expected)
        assert similarity.min() > 0.995
    reached = gradient(coarse, modality, prompt)
    assert reached.dtype == torch.float32
    assert (reached[0].abs().amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("deep", ["add", "replace", "prefix"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_weights_stored_in_bf16_change_no_bit(
    kind: Kind, checkpoint: Path, modality: Modality, deep: Deep
) -> None:
    """Autocast casts them before each use: what it gave before, it has to give now."""
    cast = kind.load(str(checkpoint), Computation("bf16"))
    stored = placed(kind.load(str(checkpoint), Computation("bf16")), CPU)
    kept = {str(p.dtype).removeprefix("torch.") for p in stored.tower_layers[0].parameters()}
    assert kept == {"bfloat16", "float32"}, "norms stay in float32"
    assert all(p.dtype == torch.float32 for p in cast.parameters())
    inputs = inputs_for(cast, modality)
    assert torch.equal(stored(modality, inputs, None), cast(modality, inputs, None))
    with torch.inference_mode():
        assert torch.equal(stored(modality, inputs, None), cast(modality, inputs, None))
    found = []
    for backbone in (stored, cast):
        prompt = prompt_for(backbone, modality).requires_grad_()
        features = backbone(modality, inputs, prompt, deep)
        found.append((features, *torch.autograd.grad(features.float().square().sum(), prompt)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_placed_model_is_still_the_one_that_adapters_fit(kind: Kind, checkpoint: Path) -> None:
    """Its fingerprint is of the weights as they were loaded, not of rounded ones."""
    loaded = kind.load(str(checkpoint), Computation("bf16"))
    stored = placed(kind.load(str(checkpoint), Computation("bf16")), CPU)
    assert stored.fingerprint == loaded.fingerprint
    assert stored.with_own_modules().fingerprint == loaded.fingerprint


@pytest.mark.parametrize(("precision", "whole"), [("fp32", False), ("bf16", True)])
def test_weights_stay_whole_in_fp32_and_for_methods_that_train_them(
    kind: Kind, checkpoint: Path, precision: Precision, whole: bool
) -> None:
    stored = placed(kind.load(str(checkpoint), Computation(precision)), CPU, whole=whole)
    assert all(p.dtype == torch.float32 for p in stored.parameters())


@pytest.mark.parametrize("modality", MODALITIES)
def test_checkpointing_gives_the_same_features_and_gradients(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    """The second forward pass runs when no prompt is active any more: it must enter anyway."""
    lean = kind.load(str(checkpoint), Computation(gradient_checkpointing=True))
    inputs = inputs_for(pair, modality)
    assert torch.equal(lean(modality, inputs, None), pair(modality, inputs, None))
    for batch in (1, len(inputs)):
        prompt = prompt_for(pair, modality, batch)
        assert torch.equal(lean(modality, inputs, prompt), pair(modality, inputs, prompt))
        assert torch.equal(gradient(lean, modality, prompt), gradient(pair, modality, prompt))


@pytest.mark.parametrize("modality", MODALITIES)
def test_checkpointing_keeps_no_activations_of_the_layers(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    """A frozen model is in evaluation mode, in which the library's own switch does nothing."""
    lean = kind.load(str(checkpoint), Computation(gradient_checkpointing=True))
    weights = {w.data_ptr() for model in (lean, pair) for w in model.parameters()}

    def kept(backbone: TowerPair) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        prompt = prompt_for(backbone, modality).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = backbone(modality, inputs_for(backbone, modality), prompt)
        total = sum(sizes.values())
        del features
        return total

    assert kept(lean) < 0.6 * kept(pair)  # SigLIP's pooling head keeps its own


@pytest.mark.parametrize("modality", MODALITIES)
def test_checkpointing_recomputes_with_the_weights_of_the_forward_pass(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    """Fine-tuning puts a task's weights in place for the forward pass only."""
    lean = kind.load(str(checkpoint), Computation(gradient_checkpointing=True))
    inputs = inputs_for(pair, modality)
    found = []
    for backbone in (lean, pair):
        other = {n: (p * 1.5).requires_grad_() for n, p in backbone.named_parameters()}
        functional_call(backbone, other, (modality, inputs, None)).square().sum().backward()
        found.append({name: tensor.grad for name, tensor in other.items()})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[1].items():
        reached = found[0][name]
        assert (reached is None) == (expected is None), name
        if expected is not None and reached is not None:
            torch.testing.assert_close(reached, expected)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler"
)
def test_compiled_layers_agree_with_and_without_prompts(
    kind: Kind, checkpoint: Path, pair: TowerPair
) -> None:
    """A compiled tower that lost its prompt would train nothing."""
    modality: Modality = "vision" if kind.name == "clip" else "text"  # one each: it takes a while
    inputs = inputs_for(pair, modality)
    for checkpointing in (False, True):
        fast = kind.load(str(checkpoint), Computation("auto", checkpointing, True))
        for count in (3, 2):
            with torch.inference_mode():
                found = fast(modality, inputs[:count], None)
                expected = pair(modality, inputs[:count], None)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for batch in (1, 3):
            prompt = prompt_for(pair, modality, batch).requires_grad_()
            found, expected = (b(modality, inputs, prompt) for b in (fast, pair))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            (reached,) = torch.autograd.grad(found.square().sum(), prompt)
            (wanted,) = torch.autograd.grad(expected.square().sum(), prompt)
            torch.testing.assert_close(reached, wanted, rtol=1e-3, atol=1e-4)


def test_compiling_without_a_compiler_is_an_error_at_once(
    kind: Kind, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Inductor would find out in the first training step, with a page of its own words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CXX", "CC"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=r"backbone\.compile=true needs a C\+\+ compiler"):
        kind.load(str(checkpoint), Computation(compile=True))


def test_layers_of_the_library_stay_untouched_when_all_is_off(pair: TowerPair) -> None:
    """The unprompted features must be the library's to the bit."""
    for tower in (pair.model.vision_model, pair.model.text_model):
        assert len(tower.encoder.layers) == LAYERS
        assert not any("forward" in vars(layer) for layer in tower.encoder.layers)
