"""CLIP from `transformers`, frozen, with entries for prompts in both towers."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from system.backbones.dual_encoder import BACKBONES, BackboneShape, DualEncoder
from system.backbones.image_transform import ProcessorTransform
from system.backbones.prompt_entry import PromptEntry
from system.errors import ConfigError

LEGACY_END = 2  # eos_token_id of configs that pool at the largest id


class ClipBackbone(DualEncoder):
    """A `transformers.CLIPModel` as a frozen dual encoder.

    With prompt None the features equal `CLIPModel.get_image_features` and `get_text_features`
    to the bit. Tokenizer and image processor are needed only by `tokenize` and `image_transform`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        image_processor: Any = None,
        name: str = "clip",
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.name = name
        vision, text = model.config.vision_config, model.config.text_config
        self.shape = BackboneShape(
            vision_layers=vision.num_hidden_layers,
            text_layers=text.num_hidden_layers,
            vision_width=vision.hidden_size,
            text_width=text.hidden_size,
            feature_width=model.config.projection_dim,
            image_size=vision.image_size,
            context_length=text.max_position_embeddings,
        )
        # Published (LPI): the visual prompt enters after the position embeddings and before the
        # pre-norm; the textual one replaces token embeddings before positions are added.
        self._vision_entry = PromptEntry(model.vision_model.encoder.layers)
        self._vision_entry.insert_before(model.vision_model.pre_layrnorm)
        self._text_entry = PromptEntry(model.text_model.encoder.layers)
        self._text_entry.replace_after(model.text_model.embeddings.token_embedding)

    def train(self, mode: bool = True) -> "ClipBackbone":
        """Stay in evaluation mode: a frozen backbone has no training behaviour."""
        return super().train(False)

    def encode_image(self, pixel_values: Tensor, prompt: Tensor | None) -> Tensor:
        """Features (B, P) after the projection; see `DualEncoder.encode_image`."""
        with self._vision_entry.active(prompt):
            features: Tensor = self.model.get_image_features(pixel_values).pooler_output
        return features

    def encode_text(self, input_ids: Tensor, prompt: Tensor | None) -> Tensor:
        """Features (B, P) after the projection; see `DualEncoder.encode_text`."""
        with self._text_entry.active(prompt):
            features: Tensor = self.model.get_text_features(input_ids).pooler_output
        return features

    def tokenize(self, texts: Sequence[str], placeholders: int = 0) -> Tensor:
        """Ids (B, context): begin, placeholders, words, end, padding.

        Words are cut so that everything fits; the end token always stays. Raises ConfigError when
        the prompt leaves no room for a word.
        """
        room = self.shape.context_length - 2 - placeholders
        if room < 1:
            raise ConfigError(
                f"method.prompt_length={placeholders} leaves no room for a word in the context of "
                f"{self.shape.context_length} tokens of {self.name}; lower it"
            )
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        words = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        # The begin token stands in for the prompt: unlike the end or padding token it can't be
        # taken for the end of the text, whose feature is read.
        rows = [[begin] * (1 + placeholders) + row[:room] + [end] for row in words]
        ids = torch.full((len(rows), self.shape.context_length), self._padding(), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids

    def image_transform(self, protocol: str, augmentation: str) -> ProcessorTransform:
        """The checkpoint's image processor, with the protocol's augmentation."""
        return ProcessorTransform(
            self.image_processor, self.shape.image_size, protocol, augmentation
        )

    @property
    def logit_scale(self) -> Tensor:
        """exp of the learned temperature, as CLIP applies it to cosines."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _padding(self) -> int:
        padding: int | None = self.tokenizer.pad_token_id
        end: int = self.tokenizer.eos_token_id
        return end if padding is None else padding


@BACKBONES.register("clip")
def load_clip(path: str) -> ClipBackbone:
    """CLIP, its tokenizer and its image processor from a hub id or a local directory.

    Raises ConfigError naming `backbone.path` and the part that can't be loaded, is not a CLIP's,
    or does not fit the others.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    local = Path(path).expanduser()
    if local.exists():
        path = str(local)
        _check_directory(local)
    elif local.is_absolute() or path.startswith("."):
        raise ConfigError(
            f"backbone.path={path!r} does not exist; give a hub id or a directory that holds a "
            "CLIP (`promptide pretrain` makes the small one)"
        )
    config = _load("config.json", path, lambda: AutoConfig.from_pretrained(path))
    if config.model_type != "clip":
        raise ConfigError(
            f"backbone.path={path!r} holds a {config.model_type!r} model, not a CLIP; "
            "choose the backbone group that fits it"
        )
    model, report = _load(
        "weights",
        path,
        lambda: CLIPModel.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        ),
    )
    if report["missing_keys"]:  # transformers would leave them random, with no more than a note
        first = ", ".join(sorted(report["missing_keys"])[:3])
        raise ConfigError(
            f"backbone.path={path!r}: the weights lack {len(report['missing_keys'])} of the "
            f"model's tensors ({first}, ...); the config and the weights do not belong together"
        )
    tokenizer = _load("tokenizer", path, lambda: AutoTokenizer.from_pretrained(path))
    processor = _load("image processor", path, lambda: CLIPImageProcessorPil.from_pretrained(path))
    _check_fit(path, model.config, tokenizer, processor)
    return ClipBackbone(model, tokenizer, processor, name=path)


def _load(part: str, path: str, loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except Exception as error:  # each library below has types of its own for a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"backbone.path={path!r}: the {part} could not be loaded ({reason}). Give a local "
            "directory that is whole, fill the cache first (`hf download`), or go online without "
            "HF_HUB_OFFLINE"
        ) from error


def _check_directory(directory: Path) -> None:
    # What the loaders below do without some of these files is worse than to fail: without a
    # tokenizer, for one, they make an empty one that knows no word.
    needed = {
        "config.json": ("config.json",),
        "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
        "tokenizer.json (or vocab.json)": ("tokenizer.json", "vocab.json"),
        "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
    }
    for name, alternatives in needed.items():
        if not any((directory / file).is_file() for file in alternatives):
            raise ConfigError(
                f"backbone.path={str(directory)!r} has no {name}; it must hold what "
                "`save_pretrained` of model, tokenizer and processor writes"
            )
    for file in sorted(directory.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError as error:
            raise ConfigError(f"backbone.path: {file} is not valid JSON: {error}") from error


def _check_fit(path: str, config: Any, tokenizer: Any, processor: Any) -> None:
    text = config.text_config
    if len(tokenizer) > text.vocab_size:
        raise ConfigError(
            f"backbone.path={path!r}: the tokenizer has {len(tokenizer)} tokens but the model "
            f"embeds {text.vocab_size}; they do not belong together"
        )
    # The text feature is read at the end token: at its id, or, in a config of before
    # transformers 4.31 (2 there, whatever the tokenizer), at the largest id.
    legacy = text.eos_token_id == LEGACY_END
    expected = len(tokenizer) - 1 if legacy else text.eos_token_id
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id != expected:
        raise ConfigError(
            f"backbone.path={path!r}: the tokenizer begins a text with token "
            f"{tokenizer.bos_token_id} and ends it with {tokenizer.eos_token_id}, but the model "
            f"reads its text feature at token {expected}; they do not belong together"
        )
    size = config.vision_config.image_size
    blank = Image.new("RGB", (2 * size, size + 1))
    pixels = processor(images=blank, return_tensors="np")["pixel_values"][0]
    if pixels.shape != (3, size, size):
        raise ConfigError(
            f"backbone.path={path!r}: the image processor gives images of "
            f"{pixels.shape[2]}x{pixels.shape[1]} pixels but the model takes {size}x{size}; "
            "correct crop_size in its preprocessor_config.json"
        )
