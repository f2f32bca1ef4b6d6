"""Prompts in the windows of a `transformers` Swin: hooks on the library's own blocks.

Each window of a block gets the block's prompt as further tokens. They go through the block's own
norm and take part in its attention, without a relative position and visible from everywhere; what
attention makes of them is dropped, so that a prompt never becomes a part of the image. This is
deep prompting of a Swin as in VPT (Jia et al., ECCV 2022, arXiv 2203.12119, section 3.2).

Without prompts no hook changes anything: outputs equal the plain model's to the bit.

Legend: B batch, W windows of all images, N prompt length, T tokens of a window, D block width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_PROMPT = "window_prompt"  # rides from the block to its attention; a name the library has not


class SwinPrompts:
    """The prompts of a Swin's blocks during one forward pass, the first in the first block."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._prompts: Sequence[Tensor] = ()
        self.depth = len(blocks)
        for index, block in enumerate(blocks):
            # The prompt enters the block as an argument: a block whose activations are computed
            # again in the backward pass needs it then, when nothing is active any more.
            block.register_forward_pre_hook(self._enter(index), with_kwargs=True)
            _WindowTokens(block)

    @contextmanager
    def active(self, prompts: Sequence[Tensor]) -> Iterator[None]:
        """Let `prompts`, one (1|B, N, D) per block, enter during the block of code."""
        if len(prompts) > self.depth:
            raise ValueError(f"{len(prompts)} prompts do not fit a Swin of {self.depth} blocks")
        assert not self._prompts, "prompts are already active in this tower"
        self._prompts = prompts
        try:
            yield
        finally:
            self._prompts = ()

    def _enter(self, index: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if index >= len(self._prompts):
                return None
            return args, kwargs | {_PROMPT: self._prompts[index]}

        return hook


class _WindowTokens:
    """Widens one block's attention by a prompt, for one call."""

    def __init__(self, block: Any) -> None:
        self._length = 0
        self._norm = block.layernorm_before
        attention = block.attention
        attention.register_forward_pre_hook(self._widen, with_kwargs=True)
        attention.register_forward_hook(self._drop)
        attention.relative_position_bias.register_forward_hook(self._widen_bias)

    def _widen(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        prompt = kwargs.pop(_PROMPT, None)
        if prompt is None:
            return None
        tokens, mask = args  # [W, T, D], [W / B, T, T] or None
        self._length = prompt.shape[1]
        prompt = self._norm(prompt.to(tokens.dtype))
        # the windows of an image follow each other
        prompt = prompt.repeat_interleave(len(tokens) // len(prompt), dim=0)  # [W, N, D]
        tokens = torch.cat([tokens, prompt], dim=1)
        return (tokens, None if mask is None else self._pad(mask)), kwargs

    def _widen_bias(self, _: nn.Module, __: Any, bias: Tensor) -> Tensor | None:
        return self._pad(bias) if self._length else None

    def _pad(self, scores: Tensor) -> Tensor:
        """Zeros for the prompt, as queries and as keys: [..., T, T] -> [..., T + N, T + N]."""
        return pad(scores, (0, self._length, 0, self._length))

    def _drop(self, _: nn.Module, __: Any, output: Any) -> Any:
        if not self._length:
            return None
        tokens, *rest = output
        tokens = tokens[:, : tokens.shape[1] - self._length]
        self._length = 0
        return (tokens, *rest)
