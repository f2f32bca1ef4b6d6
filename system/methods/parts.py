"""Small parts that several methods use: seeds, initial values, sizes, and loss weights by task."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import BackboneShape, Modality
from system.errors import ConfigError
from system.grounders.grounder import GrounderShape

#: A loss weight for all tasks, or one for each in the stream's order: the last holds for those
#: after it.
Weight = float | tuple[float, ...]
#: Standard deviation of prompts and contexts at the start, of methods whose papers start them so.
INIT_STD = 0.02


def np_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    import numpy as np

    (word,) = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)
    return int(word >> np.uint64(1))


def sample_noise(shape: tuple[int, ...], seed: int, samples: list[int]) -> Tensor:
    """Standard normal noise (B, *shape), each row from the seed and its sample's number alone.

    So a sample starts from the same noise in whatever batch, epoch or trial it is drawn.
    """
    rows = []
    for sample in samples:
        # hashed by NumPy's seed sequence, since neighbouring seeds of PyTorch are not independent
        entropy = np_seed(seed, sample)
        rows.append(torch.randn(shape, generator=torch.Generator().manual_seed(entropy)))
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def normal(*shape: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """Prompts as they start."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)


def uniform(*shape: int, inputs: int, generator: torch.Generator) -> nn.Parameter:
    """Weights or biases of a linear layer of so many inputs, as PyTorch starts them."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter((2 * torch.rand(*shape, generator=generator) - 1) * bound)


def prompt_lengths(prompt_length: int, text_prompt_length: int | None) -> dict[Modality, int]:
    """Each tower's prompt length; null for the text's stands for the visual one's."""
    return {"vision": prompt_length, "text": text_prompt_length or prompt_length}


def layer_widths(shape: BackboneShape | GrounderShape, modality: Modality) -> tuple[int, ...]:
    """The width of each layer of one tower."""
    if isinstance(shape, GrounderShape):
        return shape.widths(modality)
    return (shape.width(modality),) * shape.layers(modality)


def depth_within(
    prompt_depth: int | None, shape: BackboneShape | GrounderShape, least: int = 1
) -> int:
    """How many layers have prompts: all of the deeper tower for None.

    Raises ConfigError for a depth that no tower has, or below `least`.
    """
    vision, text = (len(layer_widths(shape, m)) for m in ("vision", "text"))
    depth = max(vision, text) if prompt_depth is None else prompt_depth
    if not least <= depth <= max(vision, text):
        model = "grounder" if isinstance(shape, GrounderShape) else "backbone"
        raise ConfigError(
            f"method.prompt_depth={depth} does not fit a {model} of {vision} vision and {text} "
            f"text layers; use {least}..{max(vision, text)}"
        )
    return depth


def depth_in_each(prompt_depth: int | None, shape: GrounderShape, *towers: Modality) -> int:
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


def check_readable(rows: int, widths: Sequence[int], key: str) -> None:
    """Raises ConfigError naming `key` if `rows` of the first width make no rows of another."""
    for width in widths:
        if rows * widths[0] % width:
            raise ConfigError(
                f"{key}={rows}: {rows} x {widths[0]} numbers cannot be read as rows of a block's "
                f"width of {width}; make it a multiple of {width // math.gcd(width, widths[0])}"
            )


def read_at_widths(prompts: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
    """Prompts (B, N, D) of the first block's width as (B, N D / Dl, Dl), Dl the layer's width.

    As in Diff-Prompt's released code: 8 x 96 is 4 x 192, 2 x 384, 1 x 768 where a Swin is wider.
    """
    return [
        prompt.reshape(len(prompt), -1, width)
        for prompt, width in zip(prompts, widths, strict=True)
    ]


def check_at_least(least: float, config: object, *names: str) -> None:
    """Raises ValueError naming the first of a config's fields below `least`; null is none."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            limit = "must not be negative" if least == 0 else f"must be at least {least}"
            raise ValueError(f"{name}={value} {limit}")


def check_positive(config: object, *names: str) -> None:
    """Raises ValueError naming the first of a config's fields that is not above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be above 0")


def weight_at(weight: Weight, task: int) -> float:
    """The weight at the stream's task of that index."""
    if isinstance(weight, tuple):
        return weight[min(task, len(weight) - 1)]
    return weight


def check_weight(name: str, weight: Weight) -> None:
    """Raises ValueError unless there is a weight, and each is a finite number of at least 0."""
    each = weight if isinstance(weight, tuple) else (weight,)
    if not each:
        raise ValueError(f"{name}=[] is empty; give a number, or one for each task")
    for number in each:
        if not (math.isfinite(number) and number >= 0):
            given = list(weight) if isinstance(weight, tuple) else weight
            raise ValueError(f"{name}={given} must be at least 0 and finite")
