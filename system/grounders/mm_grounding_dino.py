"""MM-Grounding-DINO from `transformers`.

Zhao et al., "An Open and Comprehensive Pipeline for Unified Object Grounding and Detection" (arXiv
2401.02361). It is Grounding DINO trained openly, with another score: a place and a word's product
is divided by the root of their width and has a learned bias, in each layer of the decoder its own
or one for all.
"""

from system.backbones.computation import Computation
from system.backbones.dual_encoder import resolved
from system.config.schema import GrounderConfig, ImageSizeConfig
from system.grounders.dino.dino_checkpoint import load_dino, require_own_tokenizer
from system.grounders.dino.dino_grounder import GroundingDino


def load_mm_grounding_dino(
    path: str,
    computation: Computation = Computation(),  # noqa: B008 - frozen
    images: ImageSizeConfig = ImageSizeConfig(),  # noqa: B008 - frozen
) -> GroundingDino:
    """MM-Grounding-DINO at a hub id or in a local directory; see `load_dino`."""
    from transformers import MMGroundingDinoForObjectDetection

    return load_dino(
        path, computation, images, MMGroundingDinoForObjectDetection, "MM-Grounding-DINO"
    )


def _of_config(config: GrounderConfig) -> GroundingDino:
    require_own_tokenizer(config)
    return load_mm_grounding_dino(resolved(config.path), Computation.of(config), config.images)


GROUNDER = _of_config
