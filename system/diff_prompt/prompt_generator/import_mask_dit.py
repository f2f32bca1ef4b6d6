"""A published Mask-DiT in the released naming, as a prompt generator in our own directory form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from system.backbones.dual_encoder import load_backbone
from system.config.schema import BackboneConfig
from system.diff_prompt.mask_vae.mask_vae_files import load_mask_vae
from system.diff_prompt.prompt_generator.generator_files import (
    GeneratorHeader,
    require_same_latents,
    save_generator,
)
from system.diff_prompt.prompt_generator.generator_settings import (
    ConditionResize,
    ConditionScale,
    Latents,
    TextEmbedding,
)
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.errors import ConfigError
from system.storage.files import Folder
from system.storage.published_weights import (
    digest_of,
    fetched,
    read_weights,
    require_same_names,
    weight_file,
)


@dataclass(frozen=True)
class MaskDitImport:
    """What the published weights do not say; the defaults are those of the released code.

    `heads` is ours: no tensor's shape tells it. With `encoder` and `mask_vae`, a path each, it is
    also recorded whose conditions and latents they are for, and compared where they are used.
    """

    heads: int = 8
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule("linear", 100))
    text_embedding: TextEmbedding = "pooled"
    latents: Latents = "sample_unscaled"
    condition_scale: ConditionScale = "raw"
    condition_resize: ConditionResize = "squeeze"
    encoder: str | None = None
    mask_vae: str | None = None


def import_mask_dit(source: str, folder: Folder, options: MaskDitImport) -> str:
    """Write the generator of a hub id or file into a folder; what it is, in words.

    Raises ConfigError or StorageError naming the file or the tensors that are wrong.
    """
    file = weight_file(fetched(source))
    state = read_weights(file)
    sizes = mask_dit_sizes(state, options.heads, str(file))
    network = MaskDiT(sizes, seed=0)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    require_same_names(state, expected, str(file))
    network.load_state_dict(state)
    header = GeneratorHeader(
        network=sizes,
        schedule=options.schedule,
        backbone="clip",
        backbone_fingerprint=_fingerprint(options.encoder),
        mask_vae=_mask_vae(options.mask_vae, sizes),
        condition_dropout=0.0,
        train_expressions=None,
        log=(),
        text_embedding=options.text_embedding,
        latents=options.latents,
        condition_scale=options.condition_scale,
        condition_resize=options.condition_resize,
        imported_from=source,
    )
    # the same weights under another schedule draw other masks
    about = torch.tensor(list(repr(replace(header, imported_from="")).encode()), dtype=torch.uint8)
    save_generator(folder, network, replace(header, digest=digest_of({**state, "": about})))
    channels, side = sizes.latent_channels, sizes.latent_size
    return (
        f"Mask-DiT: {sizes.depth} layers of width {sizes.width} with {sizes.heads} heads, latents "
        f"of {channels} x {side} x {side}, {sum(p.numel() for p in network.parameters()):,} "
        "parameters"
    )


def mask_dit_sizes(state: Mapping[str, Tensor], heads: int, where: str) -> MaskDitConfig:
    """The sizes that tensors in the released naming have.

    Raises ConfigError naming tensors that they are read from and that are not there, or sizes that
    cannot be.
    """
    telling = {"x_embedder.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2}
    missing = [name for name, size in telling.items() if _dimensions(state.get(name)) != size]
    if missing:
        raise ConfigError(
            f"{where} is no Mask-DiT in the released naming; missing: {', '.join(missing)}; it "
            f"holds {', '.join(list(state)[:4]) or 'nothing'}, ..."
        )
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    try:
        return MaskDitConfig(
            latent_channels=channels,
            latent_size=math.isqrt(state["pos_embed"].shape[1]) * patch,
            patch=patch,
            depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
            width=width,
            heads=heads,
            mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] // width,
        )
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _dimensions(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor.dim()


def _fingerprint(encoder: str | None) -> str:
    return "" if encoder is None else load_backbone(BackboneConfig("clip", encoder)).fingerprint


def _mask_vae(path: str | None, sizes: MaskDitConfig) -> str:
    if path is None:
        return ""
    _, header = load_mask_vae(Folder.of(path))
    require_same_latents(sizes, header.vae.latent_shape, path)
    return header.digest
