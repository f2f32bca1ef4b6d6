"""A small backbone and built methods for the tests of methods."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from system.backbones.clip import ClipBackbone
from system.config.protocol import released_settings
from system.methods.base import Method, RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.backbones.small_clip import CONTEXT, IMAGE_SIZE, clip_config, word_tokenizer

LAYERS = 3
WORDS = ["a", "red", "dog", "on", "the", "hill"]
TEXTS = ["a red dog", "the hill", "a dog", "red", "on the hill"]


@cache
def backbone() -> ClipBackbone:
    """A random CLIP; it is frozen, so that tests can share it."""
    tokenizer = word_tokenizer(WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIPModel(clip_config(len(tokenizer), layers=LAYERS))
    return ClipBackbone(model, tokenizer)


def build(name: str, section: Mapping[str, Any] | None = None, *, seed: int = 0) -> StreamMethod:
    """A method as the worker builds it."""
    setting = RetrievalSetting(backbone().shape, seed)
    return build_method({"name": name, **(section or {})}, setting)


def released(method: str) -> dict[str, Any]:
    """The settings of a method in LPI's released retrieval code."""
    values = {"stage": {}, "method": {"name": method}}
    nested: dict[str, Any] = {}
    for key, value in released_settings(values).items():
        section, *rest = key.split(".")
        if section != "method":
            continue
        place = nested
        for part in rest[:-1]:
            place = place.setdefault(part, {})
        place[rest[-1]] = value
    return nested


def images() -> Tensor:
    """Five random images (5, 3, H, W)."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(len(TEXTS), 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def tokens(method: StreamMethod | Method) -> Tensor:
    """Five texts (5, T) with room for the method's prompt."""
    ids = backbone().tokenize(TEXTS, method.placeholders)
    assert ids.shape == (len(TEXTS), CONTEXT)
    return ids


def weights() -> dict[str, Tensor]:
    """A copy of all the backbone's weights."""
    return {name: value.clone() for name, value in backbone().state_dict().items()}
