"""A published Mask-VAE, as diffusers saves an AutoencoderKL, in our own directory form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from system.diff_prompt.mask_vae.mask_vae_files import MaskVaeHeader, save_mask_vae
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import ConfigError
from system.storage.files import Folder
from system.storage.foreign_json import parse_json
from system.storage.published_weights import (
    CONFIG,
    digest_of,
    fetched,
    read_weights,
    require_same_names,
    weight_file,
)

#: Keys of diffusers' config that change nothing that a Mask-VAE computes.
_FREE = {"sample_size", "scaling_factor", "force_upcast", "shift_factor", "latents_mean"}
_FREE |= {"latents_std"}


@dataclass(frozen=True)
class MaskVaeImport:
    """What the published files do not say; the defaults are those of the released code."""

    image_size: int = 224
    mask_range: tuple[int, int] = (0, 1)


def import_mask_vae(source: str, folder: Folder, options: MaskVaeImport) -> str:
    """Write the Mask-VAE of a hub id or folder into a folder; what it is, in words.

    Raises ConfigError or StorageError naming the file, key or tensors that are wrong.
    """
    place = fetched(source)
    file = weight_file(place)
    values = _config(file.parent / CONFIG)
    try:
        sizes = MaskVaeConfig(
            image_size=options.image_size,
            channels=tuple(values["block_out_channels"]),
            latent_channels=values["latent_channels"],
            layers_per_block=values["layers_per_block"],
            norm_groups=values["norm_num_groups"],
            mask_range=options.mask_range,
        )
    except KeyError as error:
        raise ConfigError(
            f"{file.parent / CONFIG} has no {error}; it is no AutoencoderKL's"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file.parent / CONFIG}: {error}") from error
    vae = build_mask_vae(sizes, seed=0)
    _require_same_kind(values, dict(vae.config), file.parent / CONFIG)
    state = read_weights(file)
    expected = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    require_same_names(state, expected, f"{file} with {CONFIG} beside it")
    vae.load_state_dict(state)
    header = MaskVaeHeader(
        digest=digest_of({**state, "mask_range": torch.tensor(sizes.mask_range)}),
        vae=sizes,
        benchmark="",
        benchmark_fingerprint="",
        seed=0,
        train_masks=0,
        held_out_masks=0,
        held_out_iou=None,
        held_out_iou_per_task={},
        latent_scale=1.0,
        trainable_parameters=sum(p.numel() for p in vae.parameters()),
        log=(),
        imported_from=source,
    )
    save_mask_vae(folder, vae, header)
    channels, side, _ = sizes.latent_shape
    return (
        f"Mask-VAE: {sizes.image_size} pixels in {list(sizes.mask_range)}, latents of {channels} x "
        f"{side} x {side}, {header.trainable_parameters:,} parameters"
    )


def _config(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise ConfigError(f"{file} is missing: diffusers writes it beside the weights")
    try:
        values = parse_json(file.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} is no config of an AutoencoderKL")
    return values


def _require_same_kind(values: dict[str, Any], own: dict[str, Any], file: Path) -> None:
    """Raises ConfigError naming a key by which diffusers would build another network than ours."""
    wrong = [
        f"{key}={value!r} (ours has {_plain(own[key])!r})"
        for key, value in values.items()
        if key in own and key not in _FREE and not key.startswith("_") and value != _plain(own[key])
    ]
    if wrong:
        raise ConfigError(f"{file} describes a network that is no Mask-VAE: {'; '.join(wrong)}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
