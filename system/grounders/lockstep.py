"""Prompts that are added to tokens inside a grounder, and an exchange between its two towers.

LPI's entry into a grounder (arXiv 2501.14369, grounding): before vision block l and text layer l
the layer's prompts are added to the hidden states, from where they pass on like the tokens
themselves: to the top-left rectangle of the feature map, row by row, and to the first tokens of the
expression. In some layers the two towers' tokens there then take in each other, which replaces
them. So the towers have to run in step, where they usually run one after the other.

Without these prompts the towers run as they are: outputs equal the plain model's to the bit.

Legend: B batch, H W sides of a block's feature map, T tokens, D width of a layer, N prompt length,
n places of a layer's visual prompt.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from system.errors import ConfigError
from system.grounders.entries import Added

#: Hidden states (B, H, W, D) before a vision block go out and come back changed; at the end the
#: levels (B, P, H, W) that the tower hands on.
Blocks = Generator[Tensor, Tensor, list[Tensor]]


def rectangle(places: int) -> tuple[int, int]:
    """Rows and columns of the rectangle of so many places: as square as it gets, not higher."""
    rows = next(rows for rows in range(math.isqrt(places), 0, -1) if places % rows == 0)
    return rows, places // rows


def entered(
    added: Added, layer: int, vision: Tensor | None, text: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The hidden states that enter a layer, its prompts added and the exchange behind them.

    Args:
        added: what enters.
        layer: counted from 0, the same in both towers.
        vision: [B, H, W, D], or None where the tower has no such layer.
        text: [B, T, D] with T of at least the prompt's length, or None.

    Raises:
        ConfigError: the feature map is smaller than the visual prompt's rectangle.
    """
    corner = words = None
    if vision is not None and layer < len(added.vision):
        prompt = added.vision[layer]
        corner = _corner(vision, prompt.shape[1]) + prompt.to(vision.dtype)
    if text is not None and layer < len(added.text):
        prompt = added.text[layer]
        words = text[:, : prompt.shape[1]] + prompt.to(text.dtype)
    if corner is not None and words is not None and layer in added.exchanging:
        corner, words = added.exchange(layer, corner, words)
    if vision is not None and corner is not None:
        vision = _with_corner(vision, corner.to(vision.dtype))
    if text is not None and words is not None:
        text = torch.cat([words.to(text.dtype), text[:, words.shape[1] :]], dim=1)
    return vision, text


class Lockstep:
    """Runs a `transformers` Swin and BERT block by block while prompts are added to their tokens.

    The text tower is called first and takes the vision tower with it, whose call then hands on what
    is there already.
    """

    def __init__(self, vision: Any, text: Any) -> None:
        """`vision` is a `SwinBackbone`, `text` a `BertModel`; both stay as they are."""
        self._vision = vision
        self._added: Added | None = None
        self._images: Tensor | None = None
        self._blocks: Blocks | None = None
        self._hidden: Tensor | None = None  # before the vision block that comes next
        self._levels: list[Tensor] | None = None
        self._plain = vision.forward
        vision.forward = self._see
        for index, layer in enumerate(text.encoder.layer):
            # Before the hooks of inserted prompts: the expression's own tokens are the first ones.
            layer.register_forward_pre_hook(self._enter(index), with_kwargs=True, prepend=True)
        text.encoder.register_forward_hook(self._finish(len(text.encoder.layer)))

    @contextmanager
    def active(self, added: Added | None, images: Tensor) -> Iterator[None]:
        """Let `added` enter during the block of code, for `images` and a text each."""
        assert self._added is None, "prompts are already added in these towers"
        self._added, self._images = added, images
        try:
            yield
        finally:
            self._added = self._images = self._blocks = self._hidden = self._levels = None

    def _enter(self, layer: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if self._added is None:
                return None
            text, *rest = args
            if layer == 0:
                self._blocks = self._through(self._images)
                self._hidden = next(self._blocks)
            return (self._step(layer, text), *rest), kwargs

        return hook

    def _finish(self, layers: int) -> Any:
        def hook(*_: Any) -> None:
            """Run the blocks that a deeper vision tower has left."""
            layer = layers
            while self._hidden is not None:
                self._step(layer, None)
                layer += 1

        return hook

    def _step(self, layer: int, text: Tensor | None) -> Tensor | None:
        """What enters the text layer; the vision block runs."""
        assert self._added is not None
        assert self._blocks is not None
        vision, text = entered(self._added, layer, self._hidden, text)
        if vision is not None:
            try:
                self._hidden = self._blocks.send(vision)
            except StopIteration as end:
                self._hidden, self._levels = None, end.value
        return text

    def _see(self, *args: Any, **kwargs: Any) -> Any:
        if self._added is None:
            return self._plain(*args, **kwargs)
        from transformers.modeling_outputs import BackboneOutput

        assert self._levels is not None, "the text tower has to run first"
        return BackboneOutput(feature_maps=tuple(self._levels))

    def _through(self, images: Any) -> Blocks:
        """The library's forward pass, which stops before each block."""
        backbone, swin = self._vision, self._vision.swin
        hidden, size = swin.embeddings(images)
        levels = []
        for name, stage in zip(backbone.stage_names[1:], swin.encoder.layers, strict=True):
            for block in stage.blocks:
                hidden = (yield hidden.unflatten(1, size)).flatten(1, 2)
                hidden, _ = block(hidden, size, always_partition=True)
            if name in backbone.out_features:
                level = backbone.hidden_states_norms[name](hidden)
                levels.append(level.unflatten(1, size).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                hidden = stage.downsample(hidden, size)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return levels


def _corner(vision: Tensor, places: int) -> Tensor:
    """The top-left rectangle (B, n, D) of a feature map (B, H, W, D), row by row."""
    rows, columns = rectangle(places)
    height, width = vision.shape[1:3]
    if rows > height or columns > width:
        raise ConfigError(
            f"a visual prompt of {places} places takes {rows} x {columns} of a feature map of "
            f"{height} x {width}; set a smaller method.prompt_length or, for narrow images, "
            "grounder.images.rule=squeeze"
        )
    return vision[:, :rows, :columns].flatten(1, 2)


def _with_corner(vision: Tensor, corner: Tensor) -> Tensor:
    """The feature map with another top-left rectangle; the first one is left alone."""
    rows, columns = rectangle(corner.shape[1])
    changed = vision.clone()
    changed[:, :rows, :columns] = corner.reshape(len(corner), rows, columns, -1)
    return changed
