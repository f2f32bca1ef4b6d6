"""Keys that find a sample's prompts: what the frozen backbone says of it, and cosines to keys.

Legend: B batch, T tokens, D tower width, P feature width, M keys.
"""

import torch
from torch import Tensor

from system.backbones.dual_encoder import BackboneShape, DualEncoder, Modality, unit
from system.errors import ConfigError


@torch.no_grad()
def feature_query(
    backbone: DualEncoder, modality: Modality, inputs: Tensor, placeholders: int
) -> Tensor:
    """The frozen model's own unit features (B, P) of inputs whose texts have placeholders."""
    if modality == "text":
        inputs = backbone.without_placeholders(inputs, placeholders)
    return unit(backbone(modality, inputs, None))


@torch.no_grad()
def token_query(
    backbone: DualEncoder, modality: Modality, inputs: Tensor, placeholders: int
) -> Tensor:
    """The mean (B, D) of the tokens that enter the first layer; of a text, of its own ones.

    Padding would be nine tenths of a short text's mean and make all texts look alike.
    """
    if modality == "vision":
        return mean_token(backbone.embed(modality, inputs))
    inputs = backbone.without_placeholders(inputs, placeholders)
    return mean_token(backbone.embed(modality, inputs), backbone.text_lengths(inputs))


def mean_token(tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The mean (B, D) of tokens (B, T, D), or of each sample's first `lengths` (B,) tokens."""
    tokens = tokens.float()
    if lengths is None:
        return tokens.mean(1)
    kept = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, T)
    return (tokens * kept[..., None]).sum(1) / lengths[:, None]


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine similarities (B, M) of queries (B, D) to keys (M, D)."""
    return unit(query) @ unit(keys).T


def unit_directions(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Random unit vectors (rows, width): only a key's direction counts.

    A longer key would turn more slowly at the same learning rate, a shorter one faster.
    """
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def require_room(shape: BackboneShape, placeholders: int, how: str) -> None:
    """Raises ConfigError when `placeholders` leave no begin, word and end token in the context."""
    if placeholders > shape.context_length - 3:
        raise ConfigError(
            f"method: {how} take {placeholders} tokens of each text, but the backbone's context "
            f"has {shape.context_length}, and a word must fit too; lower it, or set "
            "method.text_prompt_length, which holds for texts alone"
        )
