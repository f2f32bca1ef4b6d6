"""A Mask-DiT in the released naming becomes a generator, or every tensor that is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from system import app
from system.config.compose import composed_values
from system.config.parse import parse_dataclass
from system.diff_prompt.prompt_generator.generator_files import load_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_settings import PromptGeneratorSettings
from system.diff_prompt.prompt_generator.import_mask_dit import MaskDitImport, import_mask_dit
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.errors import AdapterMismatchError, ConfigError
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import experiment
from tests.diff_prompt.mask_files import prepare_shapes

FIXTURE = Path(__file__).parents[2] / "golden" / "mask_dit.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Weights in the released naming, and what the released network makes of an input."""
    with np.load(FIXTURE) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def state_of(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix("weights/"): value.clone()
        for key, value in golden.items()
        if key.startswith("weights/")
    }


@pytest.mark.parametrize("form", ["safetensors", "prefixed", "nested"])
def test_an_imported_one_computes_what_the_released_one_does(
    golden: dict[str, Tensor], tmp_path: Path, form: str
) -> None:
    state = state_of(golden)
    file = tmp_path / f"mask_dit.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file(state, file)
    else:
        prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save(prefixed if form == "prefixed" else {"model": prefixed, "ema": {}}, file)
    folder = Folder.of(tmp_path / "own")
    import_mask_dit(str(file), folder, MaskDitImport(heads=int(golden["heads"])))
    network, header = load_generator(folder, schedule=NoiseSchedule("linear", 100))
    inputs = ("latent", "timestep", "image_embedding", "text_embedding")
    with torch.no_grad():
        output = network(*(golden[key] for key in inputs))
    torch.testing.assert_close(output, golden["output"], rtol=1e-4, atol=1e-5)
    assert (header.latents, header.condition_scale) == ("sample_unscaled", "raw")
    assert header.imported_from == str(file)
    with pytest.raises(AdapterMismatchError, match="sampling_schedule"):
        load_generator(folder, schedule=NoiseSchedule())


def test_every_tensor_that_is_wrong_is_named(golden: dict[str, Tensor], tmp_path: Path) -> None:
    """A network whose other half stayed random draws something, and nobody sees why."""
    state = state_of(golden)
    del state["blocks.1.attn.qkv.bias"]
    state["y_embedder.weight"] = torch.zeros(2)
    state["final_layer.linear.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "mask_dit.pth")
    folder = Folder.of(tmp_path / "own")
    with pytest.raises(ConfigError) as error:
        import_mask_dit(str(tmp_path / "mask_dit.pth"), folder, MaskDitImport(heads=4))
    said = str(error.value)
    for part in (
        "missing: blocks.1.attn.qkv.bias",
        "left over: y_embedder.weight",
        "final_layer.linear.bias (3,) instead of",
    ):
        assert part in said
    assert not folder.names()


@pytest.mark.parametrize(
    ("state", "heads", "says"),
    [
        ({"unet.weight": torch.zeros(2)}, 8, r"missing: x_embedder\.proj\.weight.*unet\.weight"),
        (None, 7, "7 heads"),
    ],
)
def test_sizes_that_cannot_be_read_are_named(
    golden: dict[str, Tensor],
    tmp_path: Path,
    state: dict[str, Tensor] | None,
    heads: int,
    says: str,
) -> None:
    torch.save(state or state_of(golden), tmp_path / "mask_dit.pt")
    with pytest.raises(ConfigError, match=says):
        import_mask_dit(
            str(tmp_path / "mask_dit.pt"), Folder.of(tmp_path / "own"), MaskDitImport(heads=heads)
        )


def test_a_run_uses_it_if_its_settings_say_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By one command; conditions of another kind would draw masks of nothing."""
    prepare_shapes(tmp_path)
    schedule = {"name": "linear", "steps": 100}
    stage: dict[str, Any] = {
        "latents": "sample_unscaled",
        "condition_scale": "raw",
        "condition_resize": "squeeze",
        "schedule": schedule,
        "sampling_schedule": "squaredcos_cap_v2",
    }
    sizes = GeneratorPlan.of(experiment(tmp_path)).network
    save_file(MaskDiT(sizes, seed=2).state_dict(), tmp_path / "dit.safetensors")
    words = ["import", "mask_dit", str(tmp_path / "dit.safetensors"), str(tmp_path / "own")]
    assert app.main([*words, "heads=2", "encoder=shipped:tiny_clip"]) == 0
    assert "method.generator.path=" in capsys.readouterr().out
    path = str(tmp_path / "own")
    plan = GeneratorPlan.of(experiment(tmp_path, path=path, **stage))
    assert plan.given is not None
    assert plan.given.backbone_fingerprint == plan.encoder.fingerprint
    assert plan.digest == plan.given.digest != ""
    with pytest.raises(AdapterMismatchError, match=r"condition_scale=raw \(not sqrt_width\)"):
        GeneratorPlan.of(
            experiment(tmp_path, path=path, **{**stage, "condition_scale": "sqrt_width"})
        )
    with pytest.raises(AdapterMismatchError, match=r"schedule\.name=linear"):
        GeneratorPlan.of(experiment(tmp_path, path=path))


def test_the_released_stage_states_what_an_import_records() -> None:
    """Else the published weights would be refused by the very preset that is made for them."""
    values = composed_values(["stage=prompt_generator_released"])["stage"]
    stage = parse_dataclass(PromptGeneratorSettings, values, "config.stage")
    imported = MaskDitImport()
    for name in ("schedule", "text_embedding", "latents", "condition_scale", "condition_resize"):
        assert getattr(stage, name) == getattr(imported, name), name
    assert stage.network.heads == imported.heads
    assert stage.drawn_with == NoiseSchedule("squaredcos_cap_v2", 100)
    assert stage.ema_decay is None
