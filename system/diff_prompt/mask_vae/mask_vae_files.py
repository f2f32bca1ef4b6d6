"""A trained Mask-VAE on disk, as diffusers' `save_pretrained` writes it, and what it belongs to."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from system.config.parse import parse_dataclass
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig
from system.errors import StorageError
from system.methods.bounded_sizes import bounded_allocation
from system.storage.files import Folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

HEADER = "mask_vae.json"
FILES = CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class MaskVaeHeader:
    """What a Mask-VAE was trained with, and how well it reconstructs masks that it never saw."""

    digest: str  # of all that determines the weights
    vae: MaskVaeConfig
    benchmark: str
    benchmark_fingerprint: str
    seed: int
    train_masks: int
    held_out_masks: int
    held_out_iou: float | None  # mean over the held-out masks; None of imported weights
    held_out_iou_per_task: dict[str, float]
    latent_scale: float  # times a latent: what stage 2 works with
    trainable_parameters: int
    log: tuple[dict[str, float], ...]  # one row an epoch
    left_out: dict[str, int] = field(default_factory=dict)  # objects without area, by split
    imported_from: str = (
        ""  # the hub id or files that the weights came from, if nobody trained here
    )
    format_version: int = FORMAT_VERSION


def save_mask_vae(folder: Folder, vae: AutoencoderKL, header: MaskVaeHeader) -> None:
    """Write weights, then header: a folder with a header is complete."""
    with tempfile.TemporaryDirectory(prefix="promptide-") as name:
        vae.save_pretrained(name, safe_serialization=True)
        for file in FILES:
            folder.write(file, (Path(name) / file).read_bytes())
    folder.write_json(HEADER, asdict(header))


def mask_vae_header(folder: Folder) -> MaskVaeHeader | None:
    """The header, or None where no Mask-VAE is complete.

    Raises StorageError or ConfigError naming the file if it is not a header of this format.
    """
    if not folder.exists(HEADER):
        return None
    values, file = folder.read_json(HEADER), folder.file_uri(HEADER)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            f"{file} is no header of format {FORMAT_VERSION}; delete its folder to train it again"
        )
    return parse_dataclass(MaskVaeHeader, values, file)


def load_mask_vae(folder: Folder) -> tuple[AutoencoderKL, MaskVaeHeader]:
    """The autoencoder for use, and its header.

    Raises StorageError if there is none, or its files are damaged.
    """
    from diffusers import AutoencoderKL

    header = mask_vae_header(folder)
    if header is None:
        raise StorageError(
            f"{folder.uri} holds no {HEADER}; train a Mask-VAE first: promptide run "
            "experiment=mask_vae"
        )
    with tempfile.TemporaryDirectory(prefix="promptide-") as name:
        for file in FILES:
            (Path(name) / file).write_bytes(folder.read(file))
        try:
            with bounded_allocation(_shapes(Path(name) / WEIGHTS), CONFIG):
                vae = AutoencoderKL.from_pretrained(
                    name, use_safetensors=True, low_cpu_mem_usage=False, local_files_only=True
                )
        except Exception as error:  # whatever diffusers makes of a torn file
            raise StorageError(
                f"{folder.uri} holds a damaged Mask-VAE ({error}); delete it to train it again"
            ) from error
    return vae.eval().requires_grad_(False), header


def _shapes(file: Path) -> list[list[int]]:
    """The shapes of a file's tensors, by its header alone."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
