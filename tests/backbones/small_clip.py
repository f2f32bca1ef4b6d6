"""A CLIP of the real class, small and random, saved in the format that checkpoints come in."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

IMAGE_SIZE = 32
CONTEXT = 16
MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.26, 0.27)


def clip_config(vocabulary: int, *, layers: int = 3, context: int = CONTEXT) -> CLIPConfig:
    """Sizes of the small model; the end token is the largest id, as in CLIP's own vocabulary."""
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    return CLIPConfig(
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": 8},
        text_config={
            **tower,
            "hidden_size": 24,
            "vocab_size": vocabulary,
            "max_position_embeddings": context,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
        },
        projection_dim=20,
    )


def fast_tokenizer(tokens: list[str], **special: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of these tokens, ids in order, in lower case."""
    model = WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **special
    )


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: padding, unknown, the words, begin, end."""
    tokens = ["<pad>", "<unk>", *words, "<bos>", "<eos>"]
    return fast_tokenizer(tokens, bos_token="<bos>", eos_token="<eos>")


def write_small_clip(
    directory: Path, words: list[str], *, seed: int = 0, layers: int = 3, context: int = CONTEXT
) -> Path:
    """Save a random CLIP, its tokenizer and its image processor under `directory`."""
    tokenizer = word_tokenizer(words)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(clip_config(len(tokenizer), layers=layers, context=context))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": MEAN,
        "image_std": STD,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory
