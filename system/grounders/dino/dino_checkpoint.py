"""A checkpoint of the Grounding DINO family, loaded and checked."""

from typing import Any

from system.backbones.checkpoint import CheckpointKind, load_parts
from system.backbones.computation import Computation
from system.config.schema import GrounderConfig, ImageSizeConfig
from system.errors import ConfigError
from system.grounders.dino.dino_grounder import GroundingDino

#: Which group loads a model of the family, by what its config.json calls itself.
FAMILY = {
    "grounding-dino": "choose grounder=grounding_dino",
    "mm-grounding-dino": "choose grounder=mm_grounding_dino",
}


def require_own_tokenizer(config: GrounderConfig) -> None:
    """Raises ConfigError for a `grounder.tokenizer`: these checkpoints hold theirs."""
    if config.tokenizer is not None:
        raise ConfigError(
            f"grounder.tokenizer={config.tokenizer!r}: a checkpoint of {config.name} has its own "
            "tokenizer; leave the key out"
        )


def load_dino(
    path: str, computation: Computation, images: ImageSizeConfig, model: Any, title: str
) -> GroundingDino:
    """A model of the class `model` of `transformers`, its tokenizer and its image processor.

    `path` is a hub id or a local directory. Raises ConfigError naming `grounder.path` and the part
    that can't be loaded, is another model's, or does not fit the others, or `grounder.images`.
    """
    from transformers import AutoTokenizer
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    kind = CheckpointKind(
        title=title,
        model_type=model.config_class.model_type,
        model=model.from_pretrained,
        tokenizer=AutoTokenizer.from_pretrained,
        image_processor=GroundingDinoImageProcessorPil.from_pretrained,
        tokenizer_files=("tokenizer.json", "vocab.txt"),
        advice=FAMILY,
        section="grounder",
        end_token=False,
        fixed_size=False,
    )
    parts = load_parts(path, kind)
    config = parts.model.config
    for part, have, need in (
        ("vision", config.backbone_config.model_type, "swin"),
        ("text", config.text_config.model_type, "bert"),
    ):
        if have != need:
            raise ConfigError(
                f"grounder.path={path!r}: its {part} tower is a {have!r}, but prompts enter a "
                f"{need!r} only; take a checkpoint with that tower"
            )
    special = set(parts.model.model.special_tokens.tolist())
    for token in (parts.tokenizer.cls_token, parts.tokenizer.sep_token, "."):
        if token is None or parts.tokenizer.convert_tokens_to_ids(token) not in special:
            raise ConfigError(
                f"grounder.path={path!r}: the tokenizer's {token!r} is none of the tokens that the "
                "model ends a phrase with; tokenizer and weights do not belong together"
            )
    return GroundingDino(
        parts.model, parts.tokenizer, parts.image_processor, parts.path, computation, images
    )
