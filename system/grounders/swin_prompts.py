"""Prompts in the windows of a `transformers` Swin: hooks on the library's own blocks.

Each window of a block gets the block's prompts as further tokens: those that go through the
block's own norm first, as in VPT (Jia et al., ECCV 2022, arXiv 2203.12119, section 3.2), then those
that enter behind it as they are, as in Diff-Prompt (arXiv 2504.21423). They take part in the
window's attention, without a relative position and visible from everywhere; what attention makes of
them is dropped, so that a prompt never becomes a part of the image.

Without prompts no hook changes anything: outputs equal the plain model's to the bit.

Legend: B batch, W windows of all images, N prompt length, T tokens of a window, D block width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_PROMPT = "window_prompt"  # rides from the block to its attention; a name the library has not

#: Whose prompt a window gets: its own sample's, or as Diff-Prompt's released code deals them out.
#: There windows follow each other image by image, and prompts are repeated batch by batch: window f
#: gets the prompt of sample f mod B, another image's unless B is 1.
Tiling = Literal["sample", "released"]
#: Where the relative position bias stands among a window's scores: at its own tokens, or as in
#: Diff-Prompt's released code, which pads bias and shift mask in front while the prompts stand
#: behind: the pair of tokens (a, b) gets those of (a - N, b - N), and none if a or b is below N.
RelativeBias = Literal["own", "released"]


@dataclass(frozen=True)
class WindowEntry:
    """Prompts that enter a Swin's windows behind the block's norm, and how all prompts stand."""

    after_norm: Sequence[Tensor] = ()  # one (1|B, N, D) per block, the first in the first block
    tiling: Tiling = "sample"
    relative_bias: RelativeBias = "own"


@dataclass(frozen=True)
class _BlockPrompts:
    """What enters one block."""

    through_norm: Tensor | None
    after_norm: Tensor | None
    entry: WindowEntry


class SwinPrompts:
    """The prompts of a Swin's blocks during one forward pass, the first in the first block."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._prompts: Sequence[Tensor] = ()
        self._entry = WindowEntry()
        self.depth = len(blocks)
        for index, block in enumerate(blocks):
            # The prompt enters the block as an argument: a block whose activations are computed
            # again in the backward pass needs it then, when nothing is active any more.
            block.register_forward_pre_hook(self._enter(index), with_kwargs=True)
            _WindowTokens(block)

    @contextmanager
    def active(
        self,
        prompts: Sequence[Tensor],
        entry: WindowEntry = WindowEntry(),
    ) -> Iterator[None]:
        """Let `prompts`, one (1|B, N, D) per block, and those of `entry` enter."""
        for given in (prompts, entry.after_norm):
            if len(given) > self.depth:
                raise ValueError(f"{len(given)} prompts do not fit a Swin of {self.depth} blocks")
        active = bool(self._prompts) or bool(self._entry.after_norm)
        assert not active, "prompts are already active in this tower"
        self._prompts, self._entry = prompts, entry
        try:
            yield
        finally:
            self._prompts, self._entry = (), WindowEntry()

    def _enter(self, index: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            through = _at(self._prompts, index)
            after = _at(self._entry.after_norm, index)
            if through is None and after is None:
                return None
            return args, kwargs | {_PROMPT: _BlockPrompts(through, after, self._entry)}

        return hook


class _WindowTokens:
    """Widens one block's attention by its prompts, for one call."""

    def __init__(self, block: Any) -> None:
        self._length = 0
        self._entry = WindowEntry()
        self._norm = block.layernorm_before
        attention = block.attention
        attention.register_forward_pre_hook(self._widen, with_kwargs=True)
        attention.register_forward_hook(self._drop)
        attention.relative_position_bias.register_forward_hook(self._widen_bias)

    def _widen(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.pop(_PROMPT, None)
        if given is None:
            return None
        tokens, mask = args  # [W, T, D], [W / B, T, T] or None
        self._entry = given.entry
        prompt = self._prompt(given, tokens.dtype)
        self._length = prompt.shape[1]
        each = len(tokens) // len(prompt)  # windows of an image, which follow each other
        if self._entry.tiling == "released":
            prompt = prompt.repeat(each, 1, 1)
        else:
            prompt = prompt.repeat_interleave(each, dim=0)  # [W, N, D]
        tokens = torch.cat([tokens, prompt], dim=1)
        return (tokens, None if mask is None else self._pad(mask)), kwargs

    def _prompt(self, given: _BlockPrompts, dtype: torch.dtype) -> Tensor:
        """All prompts of the block side by side, (1|B, N, D)."""
        parts = []
        if given.through_norm is not None:
            parts.append(self._norm(given.through_norm.to(dtype)))
        if given.after_norm is not None:
            parts.append(given.after_norm.to(dtype))
        size = max(len(part) for part in parts)
        return torch.cat([part.expand(size, -1, -1) for part in parts], dim=1)

    def _widen_bias(self, _: nn.Module, __: Any, bias: Tensor) -> Tensor | None:
        return self._pad(bias) if self._length else None

    def _pad(self, scores: Tensor) -> Tensor:
        """Zeros for the prompt, as queries and as keys: [..., T, T] -> [..., T + N, T + N]."""
        length = self._length
        if self._entry.relative_bias == "released":
            return pad(scores, (length, 0, length, 0))
        return pad(scores, (0, length, 0, length))

    def _drop(self, _: nn.Module, __: Any, output: Any) -> Any:
        if not self._length:
            return None
        tokens, *rest = output
        tokens = tokens[:, : tokens.shape[1] - self._length]
        self._length = 0
        return (tokens, *rest)


def _at(prompts: Sequence[Tensor], index: int) -> Tensor | None:
    return prompts[index] if index < len(prompts) else None
