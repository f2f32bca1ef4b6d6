"""Grounding DINO from `transformers`.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection", ECCV 2024 (arXiv 2303.05499).
"""

from system.backbones.computation import Computation
from system.backbones.dual_encoder import resolved
from system.config.schema import GrounderConfig, ImageSizeConfig
from system.grounders.dino.dino_checkpoint import load_dino, require_own_tokenizer
from system.grounders.dino.dino_grounder import GroundingDino


def load_grounding_dino(
    path: str,
    computation: Computation = Computation(),  # noqa: B008 - frozen
    images: ImageSizeConfig = ImageSizeConfig(),  # noqa: B008 - frozen
) -> GroundingDino:
    """Grounding DINO at a hub id or in a local directory; see `load_dino`."""
    from transformers import GroundingDinoForObjectDetection

    return load_dino(path, computation, images, GroundingDinoForObjectDetection, "Grounding DINO")


def _of_config(config: GrounderConfig) -> GroundingDino:
    require_own_tokenizer(config)
    return load_grounding_dino(resolved(config.path), Computation.of(config), config.images)


GROUNDER = _of_config
