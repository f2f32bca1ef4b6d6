"""Prefixes of keys and values in the attention of a tower of `transformers`: hooks on its modules.

Prefix tuning (Li and Liang 2021, arXiv 2101.00190) as DualPrompt (arXiv 2204.04799, section 3.3,
Pre-T) uses it: p_K and p_V stand before the keys and values of a layer's attention, behind their
projections; nothing is added to the tokens, and no query is made of a prefix. Every token sees a
prefix, whatever the mask. Without prefixes no hook changes anything, and none is there until the
first one comes: outputs equal the plain model's to the bit.

Legend: B batch, N prefix length, T tokens, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_PREFIX = "attention_prefix"  # rides from the layer to its attention; a name the library has not


class PrefixEntry:
    """The prefixes of a tower's layers during one forward pass, the first in the first layer."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = tuple(layers)
        self._prefixes: Sequence[Tensor] = ()
        self._hooked = False

    @contextmanager
    def active(self, prefixes: Sequence[Tensor]) -> Iterator[None]:
        """Let `prefixes`, one (1|B, 2 N, D) per layer, enter: N keys, then N values; N may be 0."""
        assert not self._prefixes, "prefixes are already active in this tower"
        if len(prefixes) > len(self._layers):
            raise ValueError(
                f"{len(prefixes)} prefixes do not fit a tower of {len(self._layers)} layers"
            )
        for prefix in prefixes:
            if prefix.shape[1] % 2:
                raise ValueError(f"a prefix of {prefix.shape[1]} has no half for keys and values")
        self._hook()
        self._prefixes = prefixes
        try:
            yield
        finally:
            self._prefixes = ()

    def _hook(self) -> None:
        """Put hooks into the layers at the first use: others compile and run without them."""
        if self._hooked:
            return
        self._hooked = True
        for index, layer in enumerate(self._layers):
            # The prefix enters the layer as an argument: a layer whose activations are computed
            # again in the backward pass needs it then, when nothing is active any more.
            layer.register_forward_pre_hook(self._enter(index), with_kwargs=True)
            _PrefixedAttention(layer.self_attn)

    def _enter(self, index: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if index >= len(self._prefixes) or not self._prefixes[index].shape[1]:
                return None
            return args, kwargs | {_PREFIX: self._prefixes[index]}

        return hook


class _PrefixedAttention:
    """Gives one attention module more keys and values, for one call.

    Rows of zeros stand in for the prefix on its way in: the library's own code then sees as many
    queries as keys. What is projected of them is replaced by the prefix, and their outputs are
    dropped. They stand first, where a causal mask shows them to every token.
    """

    def __init__(self, attention: Any) -> None:
        self._halves: tuple[Tensor, ...] = ()
        attention.register_forward_pre_hook(self._widen, with_kwargs=True)
        attention.k_proj.register_forward_hook(self._put(0))
        attention.v_proj.register_forward_hook(self._put(1))
        attention.register_forward_hook(self._drop)

    def _widen(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        prefix = kwargs.pop(_PREFIX, None)
        if prefix is None:
            self._halves = ()
            return None
        hidden, mask = kwargs["hidden_states"], kwargs["attention_mask"]
        self._halves = prefix.expand(len(hidden), -1, -1).chunk(2, dim=1)
        length = self._halves[0].shape[1]
        widened = pad(hidden, (0, 0, length, 0))
        if mask is not None:  # [B, 1, T, T]: of a boolean mask true is what is seen, else zero
            mask = pad(mask, (length, 0, length, 0), value=float(mask.dtype == torch.bool))
        return args, kwargs | {"hidden_states": widened, "attention_mask": mask}

    def _put(self, half: int) -> Any:
        def hook(_: nn.Module, __: Any, projected: Tensor) -> Tensor | None:
            if not self._halves:
                return None
            prefix = self._halves[half].to(projected.dtype)
            return torch.cat([prefix, projected[:, prefix.shape[1] :]], dim=1)

        return hook

    def _drop(self, _: nn.Module, __: Any, output: Any) -> Any:
        if not self._halves:
            return None
        (tokens, *rest), length = output, self._halves[0].shape[1]
        self._halves = ()
        return (tokens[:, length:], *rest)
