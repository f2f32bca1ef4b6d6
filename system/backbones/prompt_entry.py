"""Where prompts enter a transformers tower: hooks on the library's own modules.

The model class stays as it is. A hook returns nothing while no prompt is set, so the outputs
without a prompt equal the plain model's to the bit.

Legend: B batch, L layers entered, N prompt length, T tokens, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class PromptEntry:
    """The prompt of one tower during one forward pass.

    The prompt of layer 0 becomes the tokens 1..N (inserted after the class token, or put in the
    place of placeholders); before each later layer its own prompt is added to these tokens.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._prompt: Tensor | None = None  # (1|B, L, N, D)
        self.depth = len(layers)
        for index, layer in enumerate(layers):
            if index > 0:
                layer.register_forward_pre_hook(self._adder(index))

    def insert_before(self, module: nn.Module) -> None:
        """Insert layer 0's prompt after the first token of what enters `module`."""

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self._prompt is None:
                return None
            tokens, *rest = args  # (B, T, D) -> (B, T + N, D)
            first = self._prompt_of(0, tokens)
            return (torch.cat([tokens[:, :1], first, tokens[:, 1:]], dim=1), *rest)

        module.register_forward_pre_hook(hook)

    def replace_after(self, module: nn.Module) -> None:
        """Put layer 0's prompt in the place of tokens 1..N of what leaves `module`."""

        def hook(_: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
            if self._prompt is None:
                return None
            first = self._prompt_of(0, tokens)
            return torch.cat([tokens[:, :1], first, tokens[:, 1 + first.shape[1] :]], dim=1)

        module.register_forward_hook(hook)

    @contextmanager
    def active(self, prompt: Tensor | None) -> Iterator[None]:
        """Let `prompt` (1|B, L, N, D) enter during the block; L may be any depth of the tower."""
        assert self._prompt is None, "a prompt is already active in this tower"
        if prompt is not None and not 0 < prompt.shape[1] <= self.depth:
            raise ValueError(
                f"a prompt for {prompt.shape[1]} layers does not fit a tower of {self.depth}"
            )
        self._prompt = prompt
        try:
            yield
        finally:
            self._prompt = None

    def _adder(self, index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self._prompt is None or index >= self._prompt.shape[1]:
                return None
            tokens, *rest = args
            added = self._prompt_of(index, tokens)
            end = 1 + added.shape[1]
            prompted = tokens[:, 1:end] + added
            return (torch.cat([tokens[:, :1], prompted, tokens[:, end:]], dim=1), *rest)

        return hook

    def _prompt_of(self, layer: int, tokens: Tensor) -> Tensor:
        """The prompt of one layer for each sample, (B, N, D)."""
        assert self._prompt is not None
        return self._prompt[:, layer].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
