"""A Mask-VAE as diffusers publishes it becomes one that a stage can use, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from system import app
from system.diff_prompt.mask_vae.import_mask_vae import MaskVaeImport, import_mask_vae
from system.diff_prompt.mask_vae.mask_vae_files import load_mask_vae
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.errors import ConfigError
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import VAE, experiment
from tests.diff_prompt.mask_files import SIDE, prepare_shapes

SIZES = MaskVaeConfig(SIDE, (4, 8), 2, layers_per_block=2, norm_groups=2, mask_range=(0, 1))
OPTIONS = MaskVaeImport(image_size=SIDE)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory as `save_pretrained` of the release's library leaves it."""
    place = tmp_path / "published"
    build_mask_vae(SIZES, seed=4).save_pretrained(place)
    return place


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_imported_one_decodes_as_the_published_one(
    published: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".bin":  # and saved while several GPUs trained it
        state = load_file(published / WEIGHTS)
        torch.save({f"module.{k}": v for k, v in state.items()}, published / "weights.bin")
        (published / WEIGHTS).unlink()
    folder = Folder.of(tmp_path / "own")
    said = import_mask_vae(str(published), folder, OPTIONS)
    assert "latents of 2 x 8 x 8" in said
    vae, header = load_mask_vae(folder)
    assert (header.vae, header.latent_scale) == (SIZES, 1.0)
    assert header.imported_from == str(published)
    latents = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = build_mask_vae(SIZES, seed=4).eval().decode(latents).sample
        torch.testing.assert_close(vae.decode(latents).sample, expected)


def test_a_generators_stage_takes_it_with_unscaled_latents_alone(
    published: Path, tmp_path: Path
) -> None:
    """Nobody knows its latents' deviation: scaled by 1 they would be called scaled and be not."""
    prepare_shapes(tmp_path)
    folder = tmp_path / "own"
    assert app.main(["import", "mask_vae", str(published), str(folder), f"image_size={SIDE}"]) == 0
    vae = {"image_size": SIDE, "channels": [4, 8], "latent_channels": 2, "layers_per_block": 2}
    section = {**VAE, "vae": {**vae, "norm_groups": 2, "mask_range": [0, 1]}, "path": str(folder)}
    plan = GeneratorPlan.of(experiment(tmp_path, mask_vae=section, latents="sample_unscaled"))
    assert plan.decoder(torch.zeros(1, 2, 8, 8)).shape == (1, 1, SIDE, SIDE)
    with pytest.raises(ConfigError, match=r"set stage\.latents=sample_unscaled"):
        GeneratorPlan.of(experiment(tmp_path, mask_vae=section))


def _edited(**values: object) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        file = place / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return edit


def _without_a_tensor(place: Path) -> None:
    state = load_file(place / WEIGHTS)
    del state["decoder.conv_in.weight"]
    state["decoder.conv_extra.weight"] = torch.zeros(1)
    save_file(state, place / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without_a_tensor, r"missing: decoder\.conv_in\.weight; left over: decoder\.conv_extra"),
        (_edited(layers_per_block=1), "left over: "),
        (_edited(latent_channels=3), r"of another shape: .*\(4, 8, .*instead of \(6, 8"),
        (_edited(act_fn="relu"), r"act_fn='relu' \(ours has 'silu'\)"),
        (_edited(in_channels=3), r"in_channels=3 \(ours has 1\)"),
        (_edited(norm_num_groups=3), r"config\.json.*norm_groups=3"),
        (lambda place: (place / "config.json").unlink(), r"config\.json is missing"),
        (lambda place: (place / "config.json").write_text("[]"), "no config of an AutoencoderKL"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    published: Path, tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    change(published)
    folder = Folder.of(tmp_path / "own")
    with pytest.raises(ConfigError, match=says):
        import_mask_vae(str(published), folder, OPTIONS)
    assert not folder.names()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mask_vae", "SOURCE"], "write `promptide import"),
        (["mask_gan", "SOURCE", "OUT"], "promptide import mask_vae|mask_dit"),
        (["mask_vae", "SOURCE", "OUT", "size=3"], "import.size"),
        (["mask_vae", "SOURCE", "OUT", "image_size"], "no key=value"),
        (["mask_vae", "SOURCE", "SOURCE"], "holds files already"),
    ],
)
def test_a_mistake_is_one_line(
    published: Path,
    tmp_path: Path,
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"SOURCE": str(published), "OUT": str(tmp_path / "own")}
    assert app.main(["import", *(places.get(word, word) for word in words)]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert len(shown.strip().splitlines()) == 1
