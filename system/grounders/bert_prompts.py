"""Prompts in the layers of a `transformers` BERT: hooks on the library's own modules.

A layer's prompt stands behind the text's tokens, is seen by all of them, and is dropped from the
layer's output. A context stands there too, but passes through the whole tower (CoOp, arXiv
2109.01134). Both enter where hidden states do, behind the embeddings and their norm, and have no
position. Without either no hook changes anything: outputs equal the plain model's to the bit.

Legend: B batch, N prompt length, T tokens, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class BertPrompts:
    """The prompts of a BERT during one forward pass: one per layer, and a context for all."""

    def __init__(self, encoder: Any) -> None:
        self._prompts: Sequence[Tensor] = ()
        self._context: Tensor | None = None
        self.depth = len(encoder.layer)
        encoder.register_forward_pre_hook(self._enter_tower, with_kwargs=True)
        encoder.register_forward_hook(self._leave_tower)
        for index, layer in enumerate(encoder.layer):
            layer.register_forward_pre_hook(self._enter_layer(index), with_kwargs=True)
            layer.register_forward_hook(self._leave_layer(index))

    @contextmanager
    def active(self, prompts: Sequence[Tensor], context: Tensor | None = None) -> Iterator[None]:
        """Let `prompts`, one (1|B, N, D) per layer, and `context` (1|B, N, D) enter."""
        if len(prompts) > self.depth:
            raise ValueError(f"{len(prompts)} prompts do not fit a BERT of {self.depth} layers")
        active = bool(self._prompts) or self._context is not None
        assert not active, "prompts are already active in this tower"
        self._prompts, self._context = prompts, context
        try:
            yield
        finally:
            self._prompts, self._context = (), None

    def _enter_tower(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._context is None:
            return None
        mask = _widened(kwargs["attention_mask"], self._context.shape[1])
        return (_joined(args[0], self._context), *args[1:]), kwargs | {"attention_mask": mask}

    def _leave_tower(self, _: nn.Module, __: Any, output: Any) -> Any:
        if self._context is None:
            return None
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden[:, : hidden.shape[1] - self._context.shape[1]]
        return output

    def _enter_layer(self, index: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if index >= len(self._prompts):
                return None
            prompt, (hidden, mask, *rest) = self._prompts[index], args
            return (_joined(hidden, prompt), _widened(mask, prompt.shape[1]), *rest), kwargs

        return hook

    def _leave_layer(self, index: int) -> Any:
        def hook(_: nn.Module, __: Any, hidden: Tensor) -> Tensor | None:
            if index >= len(self._prompts):
                return None
            return hidden[:, : hidden.shape[1] - self._prompts[index].shape[1]]

        return hook


def _joined(hidden: Tensor, prompt: Tensor) -> Tensor:
    """Hidden states (B, T, D) with a prompt (1|B, N, D) behind them."""
    return torch.cat([hidden, prompt.to(hidden.dtype).expand(len(hidden), -1, -1)], dim=1)


def _widened(mask: Tensor | None, length: int) -> Tensor | None:
    """An attention mask [B, 1, T or 1, T] that lets all tokens attend to `length` more.

    The new tokens attend to whatever another token attends to, thus not to padding: a context is
    passed on to the next layer.
    """
    if mask is None:
        return None
    visible = mask.dtype == torch.bool  # of a boolean mask true is what is seen, of another zero
    tokens = mask.shape[-1]
    widened = pad(mask, (0, length), value=float(visible))
    if mask.shape[-2] == 1:
        return widened
    itself = torch.eye(tokens, dtype=torch.bool, device=mask.device)
    hidden = False if visible else torch.finfo(mask.dtype).min
    seen = mask.masked_fill(itself, hidden).amax(dim=-2, keepdim=True)  # [B, 1, 1, T]
    rows = pad(seen, (0, length), value=float(visible)).expand(*mask.shape[:-2], length, -1)
    return torch.cat([widened, rows], dim=-2)
