"""FedTPG on a grounder: a small network makes each expression's context from its own words.

Qiu et al., "Federated Text-driven Prompt Generation for Vision-Language Models", ICLR 2024
(section 3, equation 3), learned in one place: what federates it is not what is compared here.
Trainable parameters: N D of the queries, 2 D (D + 1) of keys and values, 4 D (D + 1) of the
attention, and 2 D + 2 D (D + 1) of the network behind it.

Diff-Prompt's comparison has another form (`variant` diff_prompt): the network sees one feature of
the whole expression, and what it makes, 8 prompts, enters the first layer alone. There the feature
is CLIP's (ViT-B/32), here the grounder's own. Attention to a single feature gives that whatever the
query: the 8 prompts are all alike, and queries and keys never learn. The original form attends to
the words, which matters as soon as there are two of them.

Legend: B batch, N context length, T tokens, F width of the words, D width of the context.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, Variant
from system.methods.layer_prompts import RELEASED_LENGTH
from system.methods.parts import INIT_STD, check_positive

PUBLISHED_LENGTH = 4


@dataclass(frozen=True)
class FedTpgConfig:
    """The settings of FedTPG; null is what the variant has: 4 and 0.02, 8 and 1."""

    context_length: int | None = None
    heads: int = 4
    init_std: float | None = None  # of the queries
    variant: Variant = "original"

    def __post_init__(self) -> None:
        check_positive(self, "context_length", "heads", "init_std")


class PromptTranslator(nn.Module):
    """Queries that look at the words, and a network that makes context vectors of what they saw."""

    def __init__(self, words: int, width: int, config: FedTpgConfig, seed: int) -> None:
        """Raises ConfigError if the heads do not divide the width."""
        super().__init__()
        if width % config.heads:
            raise ConfigError(
                f"method.heads={config.heads} does not divide the text tower's width of {width}"
            )
        original = config.variant == "original"
        length = config.context_length or (PUBLISHED_LENGTH if original else RELEASED_LENGTH)
        std = config.init_std or (INIT_STD if original else 1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = nn.Parameter(torch.randn(length, width) * std)
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
        self.translator = PromptTranslator(width, width, config, setting.seed)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        words = grounder.embed_text(batch.tokens).transpose(0, 1).detach()
        return Entries(context=self.translator(words, batch.tokens.mask == 0))


class SentenceFedTpg(Method):
    """The translator from an expression's feature to prompts of the first layer."""

    def __init__(self, config: FedTpgConfig, setting: GroundingSetting) -> None:
        super().__init__()
        shape = setting.shape
        self.translator = PromptTranslator(
            shape.feature_width, shape.text_widths[0], config, setting.seed
        )

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        sentences = grounder.text_features(batch.tokens).detach()  # [B, P]
        prompts = self.translator(sentences.to(self.translator.query)[None])
        return Entries(text=[prompts])


METHOD = MethodFactory(FedTpgConfig, grounding=FedTpg, diff_prompt=SentenceFedTpg)
