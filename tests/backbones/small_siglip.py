"""A SigLIP of the real class, small and random, saved in the format that checkpoints come in."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from tests.backbones.small_clip import CONTEXT, IMAGE_SIZE, fast_tokenizer


def siglip_config(vocabulary: int, *, layers: int = 3, **text: Any) -> SiglipConfig:
    """Sizes of the small model; the towers' widths differ, their features have one."""
    tower = {"intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    return SiglipConfig(
        vision_config={**tower, "hidden_size": 32, "image_size": IMAGE_SIZE, "patch_size": 8},
        text_config={
            **tower,
            "hidden_size": 24,
            "projection_size": 32,
            "vocab_size": vocabulary,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 1,
            **text,
        },
    )


def siglip_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows no begin token: padding, end, unknown, the words."""
    return fast_tokenizer(["<pad>", "</s>", "<unk>", *words], eos_token="</s>")


def write_small_siglip(
    directory: Path, words: list[str], *, seed: int = 0, layers: int = 3, **text: Any
) -> Path:
    """Save a random SigLIP, its tokenizer and its image processor under `directory`."""
    tokenizer = siglip_tokenizer(words)
    config = siglip_config(len(tokenizer), layers=layers, **text)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SiglipModel(config)
        # The library starts the scale at 0 and the shift at 0; a trained one has neither.
        model.logit_scale.data.fill_(2.3)
        model.logit_bias.data.fill_(-5.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory
