"""The sizes of a GLIP, as stored in the config.json of its directory.

Defaults are those of GLIP-T (A) (Li et al. 2022, arXiv 2112.03857): Swin-T, BERT-base, a dynamic
head of six blocks and 256 channels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from system.config.parse import parse_dataclass
from system.grounders.glip.dynamic_head import Upsampling
from system.grounders.glip.glip_inputs import Pictures

FORMAT_VERSION = 1
MODEL_TYPE = "glip"


@dataclass(frozen=True)
class VisionSizes:
    """`transformers`' Swin; the names are its own."""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    patch_size: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths has {len(self.depths)} stages but num_heads {len(self.num_heads)}"
            )
        for stage, heads in enumerate(self.num_heads):
            if self.width(stage) % heads:
                raise ValueError(
                    f"stage {stage + 1} is {self.width(stage)} wide: no multiple of "
                    f"num_heads={heads}"
                )

    def width(self, stage: int) -> int:
        """Width of a stage's tokens, counted from 0."""
        return self.embed_dim << stage

    @property
    def block_widths(self) -> tuple[int, ...]:
        """Width of each block."""
        return tuple(
            self.width(stage) for stage, depth in enumerate(self.depths) for _ in range(depth)
        )


@dataclass(frozen=True)
class TextSizes:
    """`transformers`' BERT; the names are its own."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )


@dataclass(frozen=True)
class HeadSizes:
    """Pyramid and head. `stages` count from 1; `anchor_scale` is an anchor's side in strides.

    `nearest_anchors` are the candidates of a level for each box in training. `upsampling` is how
    the head's blocks bring a coarser level to a finer one's size: see `DynamicHead`.
    """

    stages: tuple[int, ...] = (2, 3, 4)
    extra_levels: int = 2
    channels: int = 256
    blocks: int = 6
    norm_groups: int = 16
    anchor_scale: float = 8.0
    nearest_anchors: int = 9
    upsampling: Upsampling = "bilinear"

    def __post_init__(self) -> None:
        if self.channels % self.norm_groups:
            raise ValueError(
                f"channels={self.channels} is no multiple of norm_groups={self.norm_groups}"
            )
        if self.channels % 4:
            raise ValueError(f"channels={self.channels} is no multiple of 4")


@dataclass(frozen=True)
class Selection:
    """Of the boxes: how many of all levels together are candidates, and what suppression leaves.

    See `SelectionRules`.
    """

    candidates: int = 1000
    overlap: float = 0.6
    most: int = 100


@dataclass(frozen=True)
class GlipConfig:
    """All that determines a grounder but its weights and its tokenizer.

    `context_length` is how many tokens an expression may have.
    """

    vision: VisionSizes = field(default_factory=VisionSizes)
    text: TextSizes = field(default_factory=TextSizes)
    head: HeadSizes = field(default_factory=HeadSizes)
    selection: Selection = field(default_factory=Selection)
    pictures: Pictures = field(default_factory=Pictures)
    context_length: int = 256
    model_type: str = MODEL_TYPE
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.context_length > self.text.max_position_embeddings:
            raise ValueError(
                f"context_length={self.context_length} is above the text tower's "
                f"max_position_embeddings={self.text.max_position_embeddings}"
            )
        last, stages = len(self.vision.depths), list(self.head.stages)
        # The last one too: else the tower's end, and prompts there, would work for nothing.
        if stages[-1:] != [last] or stages != sorted(set(stages)) or stages[0] < 1:
            raise ValueError(f"head.stages={stages} must rise from 1 or more to {last}, the last")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "GlipConfig":
        """Parse config.json. Raises ConfigError naming the field."""
        return parse_dataclass(cls, values, where)

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return asdict(self)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the places of each level of the pyramid."""
        own = [self.vision.patch_size * 2 ** (stage - 1) for stage in self.head.stages]
        extra = [own[-1] * 2 ** (level + 1) for level in range(self.head.extra_levels)]
        return (*own, *extra)
