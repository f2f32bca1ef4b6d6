"""L2P: a pool of prompts that all tasks share, chosen for each sample by its query.

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022 (arXiv 2112.08654), for a dual
encoder: each tower has a pool of its own, whose prompts enter its first layer beside its tokens.
The query is the frozen model's feature of the sample, and each sample gets its own k nearest.

Differs from the paper: the paper classifies by the mean of the prompts' outputs, here a feature is
read where the tower always reads it; its optional penalty on often chosen prompts, which needs to
know where tasks begin, is left out. Its released code (google-research/l2p) gives all samples of a
batch the same prompts (`selection: batchwise_leaking`), which scores here must not depend on.

LPI's comparison has another L2P: 12 prompts of 4, of which 4 (`pool_size`, `prompt_length`,
`top_k`), in the vision tower alone (`towers`), in the place of its first tokens, class token and
patches (`entry: replace`), chosen by the mean input token (`query: tokens`) for a whole batch, and
without a pull of the keys (`pull_weight: 0`), which then stay as they were drawn. Before `query`
was an option, it was that one's here too.

On a grounder, in a form of ours, the query is the frozen model's feature of the image, since an
expression always comes with one: it chooses from both towers' pools, each by keys of its own. The
visual prompts stand in the windows of the first block, the text's pass through its tower as a
context, as those of S-Prompts do.

Without a router: the pool is learned on and on, and what a task learns serves all samples. With
`sharing: own` each task has a pool, and the router names the task.

Legend: B batch, M prompts in the pool, N length of one, k prompts chosen, D tower width, P feature
width, Q width of a query, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, Deep, DualEncoder, Modality
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, RetrievalSetting
from system.methods.keys import (
    cosines,
    feature_query,
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

    `query`: "feature", the frozen model's, or "tokens", the mean of those that enter the first
    layer. `entry`: "insert" beside the tokens, or "replace" in the place of the first ones.
    `towers` names those with a pool; the other one stays as it is.
    `selection`: "per_sample", or "batchwise_leaking" as released, which leaks across the samples of
    a micro-batch: metrics then depend on batch sizes and order.
    """

    pool_size: int = 10
    top_k: int = 5
    prompt_length: int = 5
    text_prompt_length: int | None = None
    pull_weight: float = 0.5
    init_std: float = 0.02
    selection: Literal["per_sample", "batchwise_leaking"] = "per_sample"
    query: Literal["feature", "tokens"] = "tokens"
    entry: Literal["insert", "replace"] = "insert"
    towers: tuple[Modality, ...] = MODALITIES

    def __post_init__(self) -> None:
        check_at_least(1, self, "pool_size", "top_k", "prompt_length", "text_prompt_length")
        if self.top_k > self.pool_size:
            raise ValueError(
                f"top_k={self.top_k} prompts cannot be chosen from pool_size={self.pool_size}"
            )
        check_at_least(0, self, "pull_weight", "init_std")
        if not self.towers or len(set(self.towers)) < len(self.towers):
            raise ValueError(f"towers={list(self.towers)} must name vision, text, or each once")


class PromptPool(nn.Module):
    """One tower's prompts (M, N, D) and their keys (M, Q)."""

    keys: Tensor

    def __init__(
        self, config: L2PConfig, length: int, width: int, query: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        size = config.pool_size
        drawn = torch.randn(size, length, width, generator=generator)
        self.prompts = nn.Parameter(drawn * config.init_std)
        keys = unit_directions(size, query, generator)
        if config.pull_weight:
            self.keys = nn.Parameter(keys)
        else:  # nothing else teaches them: they are saved, but not counted as trained
            self.register_buffer("keys", keys)


class LearningToPrompt(Method):
    """L2P's two pools: M (Nv Dv + Qv + Nt Dt + Qt) numbers.

    With the paper's M = 10 and N = 5, and ViT-B/16 (768 and 512 wide, P = 512): 74,240; with the
    mean token as query, where Q = D, 76,800.
    """

    def __init__(self, config: L2PConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.config = config
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        inserts = config.entry == "insert" and "text" in config.towers
        self.placeholders = config.top_k * lengths["text"] if inserts else 0
        require_room(
            setting.shape,
            config.top_k * lengths["text"] if "text" in config.towers else 0,
            f"top_k={config.top_k} prompts of length {lengths['text']}",
        )
        self.batchwise = config.selection == "batchwise_leaking"
        self.query = feature_query if config.query == "feature" else token_query
        generator = setting.generator()
        for m in config.towers:
            width = setting.shape.width(m)
            query = setting.shape.feature_width if config.query == "feature" else width
            self.add_module(m, PromptPool(config, lengths[m], width, query, generator))

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
        if pulled is None or not self.config.pull_weight:
            return features, {}
        return features, {"pull": self.config.pull_weight * (self.config.top_k - pulled)}

    def _encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Features (B, P) and the pull (B,) of each sample; None in a tower without a pool."""
        if modality not in self.config.towers:
            features: Tensor = backbone(modality, inputs, None)
            return features, None
        pool = self.get_submodule(modality)
        assert isinstance(pool, PromptPool)
        similarity = cosines(self.query(backbone, modality, inputs, self.placeholders), pool.keys)
        chosen = choose_prompts(similarity, self.config.top_k, batchwise=self.batchwise)
        prompt = chosen_prompts(pool.prompts, chosen)[:, None]  # of one layer
        deep: Deep = "overwrite" if self.config.entry == "replace" else "add"
        features = backbone(modality, inputs, prompt, deep)
        return features, pull(similarity, chosen)


class GroundingL2P(Method):
    """Both pools on a grounder, with keys to the image's feature: M (Nv Dv + Nt Dt + 2 Q) numbers.

    With the paper's M = 10 and N = 5, on GLIP-T (A), where Q = 192 + 384 + 768: 70,080.
    """

    def __init__(self, config: L2PConfig, setting: GroundingSetting) -> None:
        super().__init__()
        for key, value, one in (
            ("query", config.query, "feature"),
            ("entry", config.entry, "insert"),
        ):
            if value != one:
                raise ConfigError(
                    f"method.{key}={value}: on a grounder L2P has no other {key} than {one}"
                )
        self.config = config
        self.batchwise = config.selection == "batchwise_leaking"
        self._seen: tuple[GroundingBatch, Tensor] | None = None
        lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        shape, generator = setting.shape, setting.generator()
        for m in config.towers:
            width, query = shape.widths(m)[0], shape.image_feature_width
            self.add_module(m, PromptPool(config, lengths[m], width, query, generator))

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        query = grounder.batch_features(batch).detach()
        prompts: dict[Modality, Tensor] = {}
        pulled = []
        for m in self.config.towers:
            pool = self.get_submodule(m)
            assert isinstance(pool, PromptPool)
            similarity = cosines(query.to(pool.keys), pool.keys)
            chosen = choose_prompts(similarity, self.config.top_k, batchwise=self.batchwise)
            prompts[m] = chosen_prompts(pool.prompts, chosen)
            pulled.append(pull(similarity, chosen))
        # `loss_terms` comes behind this, of the same batch: no second pass through the tower.
        self._seen = batch, torch.stack(pulled).mean(dim=0)
        vision = [prompts["vision"]] if "vision" in prompts else []
        return Entries(vision=vision, context=prompts.get("text"))

    @override
    def loss_terms(self, batch: Any, features: Mapping[Modality, Tensor]) -> dict[str, Tensor]:
        """The weighted sum of cosine distances to the chosen keys, averaged over the towers."""
        if not self.config.pull_weight:
            return {}
        assert self._seen is not None
        seen, pulled = self._seen
        assert seen is batch, "entries have to be asked for first"
        return {"pull": self.config.pull_weight * (self.config.top_k - pulled.mean())}


METHOD = MethodFactory(L2PConfig, retrieval=LearningToPrompt, grounding=GroundingL2P)
