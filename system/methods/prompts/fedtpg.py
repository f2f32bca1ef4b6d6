"""FedTPG on a grounder: a small network makes each expression's context from its own words.

Qiu et al., "Federated Text-driven Prompt Generation for Vision-Language Models", ICLR 2024
(section 3, equation 3), learned in one place: what federates it is not what is compared here.
Trainable parameters: N D of the queries, 2 D (D + 1) of keys and values, 4 D (D + 1) of the
attention, and 2 D + 2 D (D + 1) of the network behind it.

Legend: B batch, N context length, T tokens, F width of the words, D width of the context.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.errors import ConfigError
from system.grounders.grounder import Entries, Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory
from system.methods.parts import check_positive


@dataclass(frozen=True)
class FedTpgConfig:
    """The settings of FedTPG."""

    context_length: int = 4
    heads: int = 4
    init_std: float = 0.02  # of the queries

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "heads", "init_std")


class PromptTranslator(nn.Module):
    """Queries that look at the words, and a network that makes context vectors of what they saw."""

    def __init__(self, words: int, width: int, config: FedTpgConfig, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = nn.Parameter(torch.randn(config.context_length, width) * config.init_std)
            self.key_proj = nn.Linear(words, width)
            self.value_proj = nn.Linear(words, width)
            self.cross_attention = nn.MultiheadAttention(width, config.heads)
            self.mlp = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )

    def forward(self, words: Tensor, padding: Tensor | None = None) -> Tensor:
        """Contexts (B, N, D) from words (T, B, F); `padding` (B, T) is true where there is none."""
        query = self.query[:, None].expand(-1, words.shape[1], -1)  # [N, B, D]
        seen, _ = self.cross_attention(
            query,
            self.key_proj(words),
            self.value_proj(words),
            key_padding_mask=padding,
            need_weights=False,
        )
        contexts: Tensor = self.mlp(seen).transpose(0, 1)
        return contexts


class FedTpg(Method):
    """The translator from an expression's word embeddings to its context."""

    def __init__(self, config: FedTpgConfig, setting: GroundingSetting) -> None:
        super().__init__()
        width = setting.shape.text_widths[0]
        if width % config.heads:
            raise ConfigError(
                f"method.heads={config.heads} does not divide the text tower's width of {width}"
            )
        self.translator = PromptTranslator(width, width, config, setting.seed)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        words = grounder.embed_text(batch.tokens).transpose(0, 1).detach()
        return Entries(context=self.translator(words, batch.tokens.mask == 0))


METHOD = MethodFactory(FedTpgConfig, grounding=FedTpg)
