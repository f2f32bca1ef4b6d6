"""A Grounding DINO of a real class, small and random, saved as checkpoints come."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoForObjectDetection,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

#: The classes of the family, by the grounder that loads them.
FAMILY = {
    "grounding_dino": GroundingDinoForObjectDetection,
    "mm_grounding_dino": MMGroundingDinoForObjectDetection,
}
IMAGE_SIZE = 64
WORDS = ["the", "a", "on", "left", "right", "disk", "square", "red", "dog", "of"]
# The library knows these tokens by their numbers in BERT's own vocabulary.
FIXED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
VOCABULARY = 1040


def grounding_dino_config(kind: str, *, text_layers: int = 3, **changes: Any) -> Any:
    """Sizes of the small model: Swin blocks of widths 16, 16, 32, 64, and a BERT of 32."""
    swin = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        embed_dim=16,
        depths=[2, 1, 1],
        num_heads=[2, 2, 4],
        window_size=4,
        out_indices=[2, 3],
    )
    text = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=text_layers,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    values: dict[str, Any] = {
        "num_queries": 12,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "d_model": 32,
        "num_feature_levels": 3,
        "max_text_len": 24,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
    }
    made = FAMILY[kind].config_class
    return made(backbone_config=swin, text_config=text, **(values | changes))


def write_small_grounding_dino(
    directory: Path,
    kind: str = "grounding_dino",
    *,
    seed: int = 0,
    text_layers: int = 3,
    **changes: Any,
) -> Path:
    """Save a random model of FAMILY, its tokenizer and its image processor under `directory`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILY[kind](grounding_dino_config(kind, text_layers=text_layers, **changes))
        for name, parameter in model.named_parameters():
            # Fresh heads propose the same box everywhere and ignore the text; a trained one not.
            if "bbox_embed" in name and ".layers.2." in name:
                torch.nn.init.normal_(parameter, std=0.3)
            if name.endswith(("vision_param", "text_param")):
                torch.nn.init.constant_(parameter, 1.0)
    model.save_pretrained(directory)
    words = iter(WORDS)
    vocabulary = [
        FIXED.get(index) or next(words, f"[unused{index}]") for index in range(VOCABULARY)
    ]
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(directory / "vocab.txt")).save_pretrained(directory)
    processor = {
        "image_processor_type": "GroundingDinoImageProcessor",
        "size": {"shortest_edge": IMAGE_SIZE, "longest_edge": 2 * IMAGE_SIZE},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory
