"""Prompts in a tower of `transformers`: hooks on the library's own modules.

The model class stays as it is. A hook returns nothing while no prompt is set, so the outputs
without a prompt equal the plain model's to the bit.

Legend: B batch, L layers entered, N prompt length, T tokens, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import Deep


class PromptEntry:
    """The prompt of one tower during one forward pass.

    The prompt of layer 0 becomes N tokens from position `first` on (inserted there, or put in the
    place of placeholders); before each later layer its own prompt is added to these tokens, or put
    in their place. `first` is 1 behind a class or begin token, 0 in a tower that has none.
    """

    def __init__(self, layers: Sequence[nn.Module], first: int) -> None:
        self._prompt: Tensor | None = None  # (1|B, L, N, D)
        self._deep: Deep = "add"
        self.depth = len(layers)
        self.first = first
        for index, layer in enumerate(layers):
            if index > 0:
                layer.register_forward_pre_hook(self._deep_entry(index))

    def insert_after(self, module: nn.Module) -> None:
        """Insert layer 0's prompt at `first` into the tokens (B, T, D) that leave `module`."""
        self._enter_after(module, replace=False)

    def replace_after(self, module: nn.Module) -> None:
        """Put layer 0's prompt in the place of N tokens from `first` on of what leaves `module`."""
        self._enter_after(module, replace=True)

    @contextmanager
    def active(self, prompt: Tensor | None, deep: Deep = "add") -> Iterator[None]:
        """Let `prompt` (1|B, L, N, D) enter during the block; L may be any depth of the tower.

        `deep` says how the prompts of layers > 0 enter: "add" (LPI as released) or "replace" (VPT
        deep, MaPLe). With "overwrite" that of layer 0 takes the place of the tower's first N
        tokens, whatever they are, and there are no others.
        """
        assert self._prompt is None, "a prompt is already active in this tower"
        if prompt is not None and not 0 < prompt.shape[1] <= self.depth:
            raise ValueError(
                f"a prompt for {prompt.shape[1]} layers does not fit a tower of {self.depth}"
            )
        if prompt is not None and deep == "overwrite" and prompt.shape[1] > 1:
            raise ValueError("only the first layer's tokens can be overwritten")
        self._prompt, self._deep = prompt, deep
        try:
            yield
        finally:
            self._prompt = None

    def _enter_after(self, module: nn.Module, replace: bool) -> None:
        def hook(_: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
            if self._prompt is None:
                return None
            prompt = self._prompt_of(0, tokens)
            overwrite = self._deep == "overwrite"
            first = 0 if overwrite else self.first
            rest = first + (prompt.shape[1] if replace or overwrite else 0)
            return torch.cat([tokens[:, :first], prompt, tokens[:, rest:]], dim=1)

        module.register_forward_hook(hook)

    def _deep_entry(self, index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self._prompt is None or index >= self._prompt.shape[1]:
                return None
            tokens, *rest = args
            prompted = self._prompt_of(index, tokens)
            end = self.first + prompted.shape[1]
            if self._deep == "add":
                prompted = tokens[:, self.first : end] + prompted
            tokens = torch.cat([tokens[:, : self.first], prompted, tokens[:, end:]], dim=1)
            return (tokens, *rest)

        return hook

    def _prompt_of(self, layer: int, tokens: Tensor) -> Tensor:
        """The prompt of one layer for each sample, (B, N, D)."""
        assert self._prompt is not None
        return self._prompt[:, layer].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
