"""A trained prompt generator on disk: safetensors weights and what they belong to, no pickle."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from system.config.differences import differences, plain
from system.diff_prompt.prompt_generator.generator_settings import (
    ConditionResize,
    ConditionScale,
    Latents,
    TextEmbedding,
)
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule, require_same_schedule
from system.errors import AdapterMismatchError
from system.methods.bounded_sizes import bounded_allocation, require_sizes
from system.storage.adapters import read_header
from system.storage.files import Folder
from system.storage.seal import DamagedError, read_tensors, tensor_file

HEADER = "generator.json"
WEIGHTS = "generator.safetensors"
FORMAT_VERSION = 1
#: The setting that each field of the header follows from, as an error names it.
_SETTING = {
    "network": "network",
    "schedule": "schedule",
    "backbone_fingerprint": "the fingerprint of encoder.path",
    "mask_vae": "the digest of mask_vae",
    "text_embedding": "text_embedding",
    "latents": "latents",
    "condition_scale": "condition_scale",
    "condition_resize": "condition_resize",
}


@dataclass(frozen=True)
class GeneratorHeader:
    """What a generator's weights were trained with; they fit nothing else."""

    network: MaskDitConfig
    schedule: NoiseSchedule | None  # None: it draws nothing, but says one latent
    backbone: str
    backbone_fingerprint: str  # of the embeddings that condition it; "": not known
    mask_vae: str  # digest of the autoencoder in whose latent space it works; "": not known
    condition_dropout: float  # share of samples trained without a condition; 0: no guidance
    train_expressions: int | None  # None: not known
    log: tuple[dict[str, float], ...]  # one row an epoch
    digest: str = ""  # of all that determines the weights; "": of an earlier version
    text_embedding: TextEmbedding | None = None  # None: of an earlier version
    latents: Latents = "mode_scaled"
    condition_scale: ConditionScale = "sqrt_width"
    condition_resize: ConditionResize = "checkpoint"
    imported_from: str = ""  # the hub id or files that the weights came from
    format_version: int = FORMAT_VERSION


def save_generator(folder: Folder, network: MaskDiT, header: GeneratorHeader) -> None:
    """Write weights, then header: a folder with a header is complete."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    folder.write(WEIGHTS, tensor_file(state))
    folder.write_json(HEADER, asdict(header))


def load_generator(
    folder: Folder, *, schedule: NoiseSchedule | None = None, guidance: float = 1.0
) -> tuple[MaskDiT, GeneratorHeader]:
    """The network with its weights, and their header.

    Args:
        folder: where `save_generator` wrote.
        schedule: the one that it has to have been trained with; None: any.
        guidance: the one it is to be sampled with.

    Raises:
        StorageError: there is no generator, or its files are damaged.
        AdapterMismatchError: trained with another schedule or none, or without dropped conditions
            while guidance is asked for, or weights that are not those of the header.
    """
    header = generator_header(folder)
    file = folder.file_uri(WEIGHTS)
    if schedule is not None:
        require_same_schedule(header.schedule, schedule, file)
    if guidance != 1.0 and header.condition_dropout == 0:
        raise AdapterMismatchError(
            f"{file} was trained with its condition always given, so it has no prediction without "
            f"one to be guided away from; set guidance=1 instead of {guidance}, or train it with "
            "condition_dropout above 0"
        )
    try:
        state = read_tensors(folder.read(WEIGHTS))
    except DamagedError as error:
        raise folder.damaged(WEIGHTS, error) from error
    shapes = [tensor.shape for tensor in state.values()]
    where = folder.file_uri(HEADER)
    sizes = {"network": asdict(header.network)}
    sizes |= {"schedule": asdict(header.schedule)} if header.schedule else {}
    require_sizes(sizes, shapes, where)
    with bounded_allocation(shapes, where):
        network = MaskDiT(header.network, seed=0)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise AdapterMismatchError(
            f"{file} does not hold the weights that {HEADER} beside it describes: {error}"
        ) from error
    return network.eval(), header


def require_same_latents(
    network: MaskDitConfig, latent_shape: tuple[int, int, int], vae: str
) -> None:
    """Refuse a generator whose latents a Mask-VAE cannot decode.

    Raises AdapterMismatchError naming both sizes.
    """
    own = (network.latent_channels, network.latent_size, network.latent_size)
    if own != latent_shape:
        raise AdapterMismatchError(
            f"the generator makes latents of {_times(own)}, the Mask-VAE {vae} has "
            f"{_times(latent_shape)}; take the Mask-VAE that the generator was trained with"
        )


def require_same_generator(given: GeneratorHeader, stated: GeneratorHeader, path: str) -> None:
    """Refuse a trained generator that is not what the settings, as `stated`, say it is.

    What the given header does not know is not compared. Raises AdapterMismatchError naming each
    setting that differs, as it is and as it is stated.
    """
    wrong = []
    for name, setting in _SETTING.items():
        is_, said = (plain(_value(header, name)) for header in (given, stated))
        if is_ not in ("", None) or name == "schedule":
            wrong += [
                f"{'.'.join(filter(None, (setting, key)))}={old} (not {new})"
                for key, (old, new) in differences(is_, said).items()
            ]
    if wrong:
        raise AdapterMismatchError(
            f"the generator in {path} was not trained as the settings say: {'; '.join(wrong)}"
        )


def digest_of_weights(folder: Folder) -> str:
    """A digest for a generator whose header names none: of its weights."""
    return hashlib.sha256(folder.read(WEIGHTS)).hexdigest()[:32]


def _value(header: GeneratorHeader, name: str) -> Any:
    value = getattr(header, name)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def generator_header(folder: Folder) -> GeneratorHeader:
    """The header alone. Raises StorageError or ConfigError naming the file that is wrong."""
    return read_header(
        folder,
        HEADER,
        GeneratorHeader,
        FORMAT_VERSION,
        absent="train a generator with stage=prompt_generator first",
        foreign="generator's header; train it again",
    )


def _times(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
