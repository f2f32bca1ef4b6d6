from __future__ import annotations

from pathlib import Path

import pytest
import torch

from system.diff_prompt.mask_vae.mask_vae_files import (
    FILES,
    HEADER,
    MaskVaeHeader,
    load_mask_vae,
    mask_vae_header,
    save_mask_vae,
)
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import StorageError
from system.storage.files import Folder

CONFIG = MaskVaeConfig(image_size=16, channels=(4, 8), latent_channels=2, norm_groups=2)
HEADER_OF = MaskVaeHeader(
    digest="d",
    vae=CONFIG,
    benchmark="shapes",
    benchmark_fingerprint="f",
    seed=0,
    train_masks=1,
    held_out_masks=1,
    held_out_iou=0.5,
    held_out_iou_per_task={"disk": 0.5},
    latent_scale=2.0,
    trainable_parameters=10,
    log=({"loss": 1.0},),
)


def test_what_is_saved_is_what_is_loaded_and_diffusers_own(tmp_path: Path) -> None:
    vae, folder = build_mask_vae(CONFIG, seed=1), Folder.of(tmp_path)
    save_mask_vae(folder, vae, HEADER_OF)
    loaded, header = load_mask_vae(folder)
    assert header == HEADER_OF
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert not any(p.requires_grad for p in loaded.parameters())
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, HEADER}


def test_an_unfinished_save_counts_as_none(tmp_path: Path) -> None:
    """A run killed while it wrote must train again and not load half a model."""
    folder = Folder.of(tmp_path)
    save_mask_vae(folder, build_mask_vae(CONFIG, seed=1), HEADER_OF)
    folder.delete(HEADER)
    assert mask_vae_header(folder) is None
    with pytest.raises(StorageError, match="train a Mask-VAE first"):
        load_mask_vae(folder)


@pytest.mark.parametrize("file", [*FILES, HEADER])
def test_damaged_files_are_one_clear_error(tmp_path: Path, file: str) -> None:
    folder = Folder.of(tmp_path)
    save_mask_vae(folder, build_mask_vae(CONFIG, seed=1), HEADER_OF)
    folder.write(file, b"{}")
    with pytest.raises(StorageError, match="delete"):
        load_mask_vae(folder)


def test_sizes_out_of_proportion_to_the_weights_are_not_allocated(tmp_path: Path) -> None:
    """The folder may be somebody else's: diffusers would try them, whatever the weights are."""
    folder = Folder.of(tmp_path)
    save_mask_vae(folder, build_mask_vae(CONFIG, seed=1), HEADER_OF)
    values = folder.read_json(FILES[0])
    folder.write_json(FILES[0], {**values, "block_out_channels": [8192, 8192]})
    with pytest.raises(StorageError, match=r"damaged .*config\.json: its sizes make .* out of"):
        load_mask_vae(folder)
