"""Grounding DINO from `transformers`, loaded and checked.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection", ECCV 2024 (arXiv 2303.05499).
"""

from system.backbones.checkpoint import CheckpointKind, load_parts
from system.backbones.computation import Computation
from system.backbones.dual_encoder import resolved
from system.config.schema import GrounderConfig
from system.errors import ConfigError
from system.grounders.dino.dino_grounder import GroundingDino


def load_grounding_dino(
    path: str,
    computation: Computation = Computation(),  # noqa: B008 - frozen
) -> GroundingDino:
    """Grounding DINO, its tokenizer and its image processor from a hub id or a local directory.

    Raises ConfigError naming `grounder.path` and the part that can't be loaded, is not Grounding
    DINO's, or does not fit the others.
    """
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    kind = CheckpointKind(
        title="Grounding DINO",
        model_type="grounding-dino",
        model=GroundingDinoForObjectDetection.from_pretrained,
        tokenizer=AutoTokenizer.from_pretrained,
        image_processor=GroundingDinoImageProcessorPil.from_pretrained,
        tokenizer_files=("tokenizer.json", "vocab.txt"),
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
        parts.model, parts.tokenizer, parts.image_processor, parts.path, computation
    )


def _of_config(config: GrounderConfig) -> GroundingDino:
    return load_grounding_dino(resolved(config.path), Computation.of(config))


GROUNDER = _of_config
