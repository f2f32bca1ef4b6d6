"""Precision, activation checkpointing and compilation of a frozen model's towers.

They change speed, memory and rounding, not what is learned.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from system.config.precision import Arithmetic, auto_precision
from system.config.schema import BackboneConfig, FrozenModelConfig, Precision, TextPadding
from system.errors import ConfigError

Run = Callable[..., Any]  # (layer, its arguments) -> what it returns
COMPILERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")


@dataclass(frozen=True)
class Computation:
    """The settings of the config's backbone section that say how, not what, is computed.

    `precision` auto is bf16 autocast where the device has bfloat16 natively, and fp32 elsewhere:
    see `auto_precision`. Features stay float32, and so do weights until the model is on its device:
    see `placed`. `gradient_checkpointing` keeps the layers' inputs only and computes the rest again
    in the backward pass. `compile` runs `torch.compile` on the layers of both towers.
    `text_padding` longest pads a batch of texts to its longest one, in multiples of 8 tokens,
    instead of to the whole context, in a tower that reads a text's feature at its end and lets no
    token see later ones; others go on with the context.
    """

    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    text_padding: TextPadding = "context"

    @classmethod
    def of(cls, config: FrozenModelConfig) -> "Computation":
        """The settings of a frozen model's section."""
        padding = config.text_padding if isinstance(config, BackboneConfig) else "context"
        return cls(config.precision, config.gradient_checkpointing, config.compile, padding)

    def precision_on(self, device: torch.device) -> Arithmetic:
        """The precision of the towers' arithmetic on this device."""
        return auto_precision(device) if self.precision == "auto" else self.precision

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass on this device."""
        enabled = self.precision_on(device) == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)

    def apply(self, layers: Iterable[nn.Module]) -> None:
        """Set up the layers of the towers. Raises ConfigError when they can't be compiled here."""
        if self.compile:
            _require_compiler()
        if self.compile or self.gradient_checkpointing:
            # One graph serves all layers of a tower, so compiling takes as long for 12 as for 1.
            run = torch.compile(_run, dynamic=True) if self.compile else _run
            for layer in layers:
                layer.forward = _forward(layer, run, self.gradient_checkpointing)


class Frozen(Protocol):
    """A frozen model of two towers."""

    computation: Computation
    #: The layers of both towers.
    tower_layers: tuple[nn.Module, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of its weights, kept once it was asked for."""
        ...

    def to(self, device: torch.device) -> Any:
        """Move it."""
        ...


Model = TypeVar("Model", bound=Frozen)


def placed(model: Model, device: torch.device, *, whole: bool = False) -> Model:
    """The frozen model on its device, its layers' weights stored as they are computed with.

    Autocast would cast each of them anew in every forward pass. Only linear maps inside the towers'
    layers are stored in bfloat16: autocast casts their weights before any use, so that no result
    changes by a bit. Norms, embeddings and heads stay as they are. `whole` leaves all weights in
    float32, for a method that trains from them.
    """
    _ = model.fingerprint  # of the weights as they were loaded
    if model.computation.precision_on(device) == "bf16" and not whole:
        for layer in model.tower_layers:
            for module in layer.modules():
                if type(module) is nn.Linear:  # others read weights in ways of their own
                    module.to(torch.bfloat16)
    model.to(device)
    return model


def _forward(layer: nn.Module, run: Run, recompute: bool) -> Callable[..., Any]:
    """The forward pass of a layer, called once its hooks have run.

    Checkpointing: the switch of `transformers` works in training mode alone, in which a frozen
    backbone never is. What is kept for the backward pass is the input, of which the prompt is a
    part, and the weights of the moment: `torch.func.functional_call` may have put others in place.
    """
    body = _Body(layer, run)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (recompute and torch.is_grad_enabled()):
            return run(layer, *args, **kwargs)
        tensors = chain(layer.named_parameters(), layer.named_buffers())
        weights = {f"layer.{name}": tensor for name, tensor in tensors}
        return checkpoint(
            functional_call,
            body,
            weights,
            args,
            kwargs,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random in evaluation mode
        )

    return forward


class _Body(nn.Module):
    """A layer without its hooks, for `functional_call`."""

    def __init__(self, layer: nn.Module, run: Run) -> None:
        super().__init__()
        self.layer = layer
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.layer, *args, **kwargs)


def _run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(layer).forward(layer, *args, **kwargs)


def _require_compiler() -> None:
    # The C++ that TorchInductor writes for a CPU, and what Triton writes to launch its kernels.
    candidates = (*filter(None, map(os.environ.get, ("CXX", "CC"))), *COMPILERS)
    if not any(shutil.which(name) for name in candidates):
        raise ConfigError(
            "backbone.compile=true needs a C++ compiler, and none is found (g++ or clang++ on the "
            "path, or CXX); install one or set backbone.compile=false"
        )
