"""A digest of everything in a checkpoint that a feature depends on.

Adapters fit only the backbone they were learned on, and stored features are those of one backbone.
The settings are listed by name: what a later `transformers` adds to its configs with a default
does not make old adapters strangers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

TOWER_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "vision_use_head",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",  # where CLIP reads its text feature
    "projection_size",
)
SWIN_SETTINGS = (
    "patch_size",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "mlp_ratio",
    "qkv_bias",
    "hidden_act",
    "use_absolute_embeddings",
    "layer_norm_eps",
    "out_indices",
)
PROCESSOR_SETTINGS = (
    "do_convert_rgb",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
TOKENIZER_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "model")


def fingerprint(model: Any, tokenizer: Any, image_processor: Any) -> str:
    """sha256 over weights, sizes, tokenizer and preprocessing; the same in every process.

    Tokenizer and image processor may be None: then they are no part of it.
    """
    config = model.config
    towers = {
        "vision": named(config.vision_config.to_dict(), TOWER_SETTINGS),
        "text": named(config.text_config.to_dict(), TOWER_SETTINGS),
    }
    return digest(model, towers, tokenizer, image_processor)


def digest(
    model: Any, sizes: Mapping[str, Any], tokenizer: Any = None, image_processor: Any = None
) -> str:
    """sha256 over a `transformers` model's weights, those settings, and both other parts."""
    digest = hashlib.sha256()
    settings = {
        "model": model.config.model_type,
        **sizes,
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer),
        "image_processor": None
        if image_processor is None
        else named(image_processor.to_dict(), PROCESSOR_SETTINGS),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    weights: Iterable[tuple[str, Tensor]] = sorted(model.state_dict().items())
    for name, tensor in weights:
        digest.update(f"{name}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def named(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The settings of these names, those that are set."""
    return {name: values[name] for name in names if values.get(name) is not None}


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(tokenizer, name, None) for name in SPECIAL_TOKENS}
    found["do_lower_case"] = tokenizer.init_kwargs.get("do_lower_case")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in Python, around SentencePiece
        return found | {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    serialised = json.loads(backend.to_str())
    return found | {part: serialised[part] for part in TOKENIZER_PARTS}
