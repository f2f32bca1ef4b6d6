"""How many layers of a grounder's towers get prompts."""

from system.backbones.dual_encoder import Modality
from system.errors import ConfigError
from system.grounders.grounder import GrounderShape


def depth_in(prompt_depth: int | None, shape: GrounderShape, *towers: Modality) -> int:
    """As many layers as asked for, or for None as each of the towers has.

    Raises ConfigError naming the tower that has fewer.
    """
    have = {tower: len(shape.widths(tower)) for tower in towers}
    depth = min(have.values()) if prompt_depth is None else prompt_depth
    for tower, layers in have.items():
        if not 1 <= depth <= layers:
            raise ConfigError(
                f"method.prompt_depth={depth} does not fit the grounder's {tower} tower of "
                f"{layers} layers; use 1..{min(have.values())}, or null for as many as there are"
            )
    return depth


def check_positive(config: object, *names: str) -> None:
    """Raises ValueError naming the first of a config's fields that is not above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
