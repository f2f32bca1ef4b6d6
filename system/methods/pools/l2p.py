"""L2P: a pool of prompts that all tasks share, chosen for each sample by its query.

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022 (arXiv 2112.08654), for a dual
encoder: each tower has a pool of its own, whose prompts enter its first layer. They are inserted
behind an image's class token and stand in a text's placeholders; put in the place of the first
tokens, as in LPI's comparison, they would drop the class token and patches.

The query is the mean of the tokens that enter the first layer, as in that comparison; the paper's
is the frozen model's feature. The paper's optional penalty on often chosen prompts, which needs to
know where tasks begin, is left out.

Without a router: the pool is learned on and on, and what a task learns serves all samples.

Legend: B batch, M prompts in the pool, N length of one, k prompts chosen, D tower width, T tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.methods.base import Method, MethodFactory, RetrievalSetting
from system.methods.keys import (
    cosines,
    require_room,
    token_query,
    unit_directions,
)
from system.methods.parts import check_at_least, prompt_lengths


def choose_prompts(similarity: Tensor, top_k: int, *, batchwise: bool = False) -> Tensor:
    """Indices (B, k) of the prompts of each sample from its cosines (B, M) to the keys.

    Each sample gets its own k nearest (the paper's instance-wise query). `batchwise`, the released
    code's default, counts in how many samples each prompt is among them and gives the k most
    frequent to all: then a sample's feature depends on what else is in its batch.
    """
    chosen = similarity.topk(top_k, dim=1).indices
    if not batchwise:
        return chosen
    batch, pool = similarity.shape
    present, counts = torch.unique(chosen, return_counts=True)
    # As released: filled up to the pool's size, on which the order of equal counts depends.
    missing = pool - len(present)
    present = torch.cat([present, present[:1].expand(missing)])
    counts = torch.cat([counts, counts.new_zeros(missing)])
    return present[counts.topk(top_k).indices].expand(batch, -1)


def chosen_prompts(pool: Tensor, chosen: Tensor) -> Tensor:
    """The prompts (B, k N, D) of `chosen` (B, k) from a pool (M, N, D), one after the other."""
    return pool[chosen].flatten(1, 2)


def pull(similarity: Tensor, chosen: Tensor) -> Tensor:
    """Each sample's sum (B,) of the cosines to its chosen keys; training raises it."""
    return similarity.gather(1, chosen).sum(1)


@dataclass(frozen=True)
class L2PConfig:
    """The settings of L2P; `text_prompt_length` null means `prompt_length` for both towers.

    `selection`: "per_sample", or "batchwise_leaking" as released, which leaks across the samples of
    a micro-batch: metrics then depend on batch sizes and order. `protocol: published` implies it.
    """

    pool_size: int = 10
    top_k: int = 5
    prompt_length: int = 5
    text_prompt_length: int | None = None
    pull_weight: float = 0.5
    init_std: float = 0.02
    selection: Literal["per_sample", "batchwise_leaking"] = "per_sample"

    def __post_init__(self) -> None:
        check_at_least(1, self, "pool_size", "top_k", "prompt_length", "text_prompt_length")
        if self.top_k > self.pool_size:
            raise ValueError(
                f"top_k={self.top_k} prompts cannot be chosen from pool_size={self.pool_size}"
            )
        check_at_least(0, self, "pull_weight", "init_std")


class PromptPool(nn.Module):
    """One tower's prompts (M, N, D) and their keys (M, D)."""

    def __init__(
        self, size: int, length: int, width: int, std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.randn(size, length, width, generator=generator) * std)
        self.keys = nn.Parameter(unit_directions(size, width, generator))


class LearningToPrompt(Method):
    """L2P's two pools: M (Nv Dv + Dv + Nt Dt + Dt) numbers.

    With the paper's M = 10 and N = 5, and ViT-B/16 (768 and 512 wide): 76,800.
    """

    def __init__(self, config: L2PConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.config = config
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.placeholders = config.top_k * lengths["text"]
        require_room(
            setting.shape,
            self.placeholders,
            f"top_k={config.top_k} prompts of length {lengths['text']}",
        )
        self.batchwise = setting.protocol == "published" or config.selection == "batchwise_leaking"
        generator = setting.generator()
        for m in MODALITIES:
            width = setting.shape.width(m)
            pool = PromptPool(config.pool_size, lengths[m], width, config.init_std, generator)
            self.add_module(m, pool)

    @override
    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features under each sample's chosen prompts."""
        return self._encode(backbone, modality, inputs)[0]

    @override
    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features, and the weighted sum of cosine distances to the chosen keys."""
        features, pulled = self._encode(backbone, modality, inputs)
        return features, {"pull": self.config.pull_weight * (self.config.top_k - pulled)}

    def _encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (B, P) and the pull (B,) of each sample."""
        pool = self.get_submodule(modality)
        assert isinstance(pool, PromptPool)
        query = token_query(backbone, modality, inputs, self.placeholders)
        similarity = cosines(query, pool.keys)
        chosen = choose_prompts(similarity, self.config.top_k, batchwise=self.batchwise)
        prompt = chosen_prompts(pool.prompts, chosen)
        features: Tensor = backbone(modality, inputs, prompt[:, None])  # of one layer
        return features, pull(similarity, chosen)


METHOD = MethodFactory(L2PConfig, retrieval=LearningToPrompt)
