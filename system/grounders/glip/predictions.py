"""What GLIP reads from its head's levels: at each place a box, its centreness, a score per token.

Li et al. 2022, "Grounded language-image pre-training", arXiv 2112.03857.

Legend: B batch, C channels of the pyramid, H W a level's sides, A places over all levels, T tokens,
D width of the text tower.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

PRIOR = 0.01  # probability of an object in an untrained head (arXiv 1708.02002)
#: Of an untrained head. GLIP's is 0, beside a BERT that reads already; a small model that starts
#: from nothing then takes twice as many steps until its words count.
LOG_SCALE = -2.0
MOST_LOGIT = 50_000.0


class BoxPredictions(nn.Module):
    """Deltas from anchors, a level's own scale on them, and centreness."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.deltas = nn.Conv2d(channels, 4, 1)
        self.centreness = nn.Conv2d(channels, 1, 1)
        self.scales = nn.Parameter(torch.ones(levels))
        for output in (self.deltas, self.centreness):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Deltas (B, A, 4) and centreness logits (B, A) of levels (B, C, H, W)."""
        deltas, centres = [], []
        for level, scale in zip(levels, self.scales, strict=True):
            deltas.append(places(self.deltas(level)) * scale)
            centres.append(places(self.centreness(level))[..., 0])
        return torch.cat(deltas, dim=1), torch.cat(centres, dim=1)


class TokenScores(nn.Module):
    """Region-token dot product (GLIP, equation 3), scaled and with a token's bias."""

    def __init__(self, text_width: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, channels)
        self.log_scale = nn.Parameter(torch.full((1,), LOG_SCALE))
        self.bias = nn.Linear(text_width, 1)
        nn.init.zeros_(self.bias.weight)
        nn.init.constant_(self.bias.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, regions: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, A, T), float32, of regions (B, A, C) and tokens (B, T, D), padding as 0."""
        tokens = normalize(tokens, dim=-1)
        known = self.project(tokens / 2)  # unit tokens, halved
        logits = regions @ known.transpose(1, 2) / self.log_scale.exp()
        logits = logits.float() + self.bias(tokens).float().transpose(1, 2)
        clamped: Tensor = logits.clamp(-MOST_LOGIT, MOST_LOGIT)
        return clamped

    def features(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) as regions meet them: (B, T, C), float32."""
        known: Tensor = self.project(normalize(tokens, dim=-1) / 2)
        return known.float()


def places(level: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H * W, C): row after row."""
    return level.flatten(2).transpose(1, 2)
