"""The parts of a `transformers` checkpoint, each loaded with one clear error, and checked.

A checkpoint is a hub id or a local directory. What the library would rather do than fail (leave
missing weights random, make an empty tokenizer, ask an unreachable hub again and again) is an
error here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from system.errors import ConfigError
from system.storage.foreign_json import parse_json
from system.uris import expanded

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
# An embedding may be padded to a round number of rows, but not by more than this.
MOST_SPARE_TOKENS = 1024


class FromPretrained(Protocol):
    """A `from_pretrained` of the library."""

    def __call__(self, path: str, **options: Any) -> Any:
        """The part at a hub id or directory."""
        ...


@dataclass(frozen=True)
class CheckpointKind:
    """Requirements on a checkpoint of one kind of model, and the loaders of its parts."""

    title: str
    model_type: str  # as config.json names it
    model: FromPretrained
    tokenizer: FromPretrained
    image_processor: FromPretrained
    tokenizer_files: tuple[str, ...]  # one of them must be there
    advice: Mapping[str, str] = field(default_factory=dict)  # what to take instead, by model_type
    section: str = "backbone"  # of the config, for the messages
    end_token: bool = True  # whether texts are read at their end token
    fixed_size: bool = True  # whether the model takes images of one size alone

    @property
    def key(self) -> str:
        """The config key that names the checkpoint."""
        return f"{self.section}.path"


@dataclass(frozen=True)
class CheckpointParts:
    """Model (float32), tokenizer and image processor, which fit each other."""

    path: str
    model: Any
    tokenizer: Any
    image_processor: Any


def load_parts(path: str, kind: CheckpointKind) -> CheckpointParts:
    """Load and check a checkpoint's parts from a hub id or a local directory.

    Raises ConfigError naming the config's key and the part that can't be loaded, is of another
    kind, or does not fit the others.
    """
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    local = expanded(path)
    if local.exists():
        path = str(local)
        _check_directory(local, kind)
    elif local.is_absolute() or path.startswith("."):
        raise ConfigError(
            f"{kind.key}={path!r} does not exist; give a hub id or a directory that holds a "
            f"{kind.title} (`promptide pretrain` makes a small CLIP)"
        )
    config = _load(kind, "config.json", path, AutoConfig.from_pretrained)
    if config.model_type != kind.model_type:
        advice = kind.advice.get(config.model_type, f"choose the {kind.section} group that fits it")
        raise ConfigError(
            f"{kind.key}={path!r} holds a {config.model_type!r} model, not a {kind.title}; {advice}"
        )
    model, report = _load(
        kind,
        "weights",
        path,
        kind.model,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:  # transformers would leave them random, with no more than a note
        first = ", ".join(sorted(report["missing_keys"])[:3])
        raise ConfigError(
            f"{kind.key}={path!r}: the weights lack {len(report['missing_keys'])} of the "
            f"model's tensors ({first}, ...); the config and the weights do not belong together"
        )
    tokenizer = _load(kind, "tokenizer", path, kind.tokenizer)
    processor = _load(kind, "image processor", path, kind.image_processor)
    _check_tokenizer(kind, path, model.config, tokenizer)
    if kind.fixed_size:
        _check_image_size(kind, path, model.config, processor)
    return CheckpointParts(path, model, tokenizer, processor)


def _load(
    kind: CheckpointKind, part: str, path: str, loader: FromPretrained, **options: Any
) -> Any:
    local = Path(path).is_dir()
    # The hub's library reads this variable once, at its import, and else tries for half a minute.
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        return loader(path, local_files_only=local or offline, **options)
    except Exception as error:  # each library below has types of its own for a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{kind.key}={path!r}: the {part} could not be loaded ({reason}). "
            + (_WHOLE_DIRECTORY if local else _ways_out(kind, path))
        ) from error


_WHOLE_DIRECTORY = (
    "The directory must hold what `save_pretrained` of model, tokenizer and processor writes"
)


def _ways_out(kind: CheckpointKind, path: str) -> str:
    return (
        f"Three ways out: set {kind.key} to a local directory that holds {path}; fill the cache "
        f"beforehand with `hf download {path}`; or go online, without HF_HUB_OFFLINE"
    )


def _check_directory(directory: Path, kind: CheckpointKind) -> None:
    # What the loaders below do without some of these files is worse than to fail: without a
    # tokenizer, for one, they make an empty one that knows no word.
    for alternatives in (("config.json",), WEIGHTS, kind.tokenizer_files, PREPROCESSOR):
        if not any((directory / file).is_file() for file in alternatives):
            raise ConfigError(
                f"{kind.key}={str(directory)!r} has no {' or '.join(alternatives)}; it must "
                "hold what `save_pretrained` of model, tokenizer and processor writes"
            )
    for file in sorted(directory.glob("*.json")):
        try:
            parse_json(file.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{kind.key}: {file} is not valid JSON: {error}") from error


def _check_tokenizer(kind: CheckpointKind, path: str, config: Any, tokenizer: Any) -> None:
    embedded = config.text_config.vocab_size
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # made without its files
        raise ConfigError(
            f"{kind.key}={path!r}: the tokenizer's files are missing: it knows no word. "
            + (_WHOLE_DIRECTORY if Path(path).is_dir() else _ways_out(kind, path))
        )
    if not 0 <= embedded - len(tokenizer) <= MOST_SPARE_TOKENS:
        raise ConfigError(
            f"{kind.key}={path!r}: the tokenizer has {len(tokenizer)} tokens but the model "
            f"embeds {embedded}; they do not belong together"
        )
    if kind.end_token and tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{kind.key}={path!r}: the tokenizer has no end token (eos_token in "
            "tokenizer_config.json); it does not fit the model"
        )


def _check_image_size(kind: CheckpointKind, path: str, config: Any, processor: Any) -> None:
    size = config.vision_config.image_size
    blank = Image.new("RGB", (2 * size, size + 1))
    pixels = processor(images=blank, return_tensors="np")["pixel_values"][0]
    if pixels.shape != (3, size, size):
        raise ConfigError(
            f"{kind.key}={path!r}: the image processor gives images of "
            f"{pixels.shape[2]}x{pixels.shape[1]} pixels but the model takes {size}x{size}; "
            "correct size and crop_size in its preprocessor_config.json"
        )
