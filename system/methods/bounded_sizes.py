"""Sizes that settings ask for, compared with the weights they belong to before they are allocated.

The settings may come from somebody's adapters: a rank of 10^9 would be tried, and 16 TB with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from system.errors import ConfigError

#: The shapes of weights: of a frozen model, or of what a header stands beside.
Shapes = Iterable[Sequence[int]]

#: A size up to this is right for any weights, however narrow: more tokens than any prompt has.
LEAST_SIDE = 4096
#: So many numbers, 256 MB, may be made for any weights, and for more of them four times as many.
LEAST_NUMBERS = 1 << 26

# Arguments of an operation that makes a tensor from numbers alone, which say how large it is.
_SIZES = ("size", "end", "steps", "n", "m")


def require_sizes(section: Mapping[str, Any], shapes: Shapes, where: str) -> None:
    """Compare each whole number of some settings with the widest side of the weights.

    Seeds are no sizes. Raises ConfigError naming the first that is larger than anything there.
    """
    sides = (side for shape in shapes for side in shape)
    _require(section, where, max((LEAST_SIDE, *sides)))


def _require(value: Any, where: str, most: int) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not str(key).endswith("seed"):
                _require(inner, f"{where}.{key}", most)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _require(inner, f"{where}[{index}]", most)
    elif isinstance(value, int) and abs(value) > most:
        raise ConfigError(
            f"{where}={value} is larger than anything in the weights it belongs to, where sizes up "
            f"to {most} are taken; set one that fits"
        )


@contextmanager
def bounded_allocation(shapes: Shapes, where: str) -> Iterator[None]:
    """A block that makes tensors in proportion to the weights of these shapes.

    Raises ConfigError before a tensor is made that leaves it.
    """
    most = max(LEAST_NUMBERS, 4 * sum(map(math.prod, shapes)))
    with _Counted(most, where):
        yield


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers of the tensors that operations make from sizes alone, before they do."""

    def __init__(self, most: int, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most
        self.where = where
        self.made = 0

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.made += _numbers(func, args, kwargs or {})
        if self.made > self.most:
            raise ConfigError(
                f"{self.where}: its sizes make {self.made:,} numbers or more, out of proportion to "
                f"the weights, for which at most {self.most:,} are made; set smaller ones"
            )
        return func(*args, **(kwargs or {}))


def _numbers(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """How many numbers an operation makes; 0 for one whose tensors follow from others."""
    arguments = func._schema.arguments
    if any(str(argument.type) == "Tensor" for argument in arguments):
        own = func._schema.name.removeprefix("aten::").startswith("new_")
        if not own:
            return 0
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)}
    given |= kwargs
    sides = [given[name] for name in _SIZES if name in given]
    return math.prod(
        int(side)
        for sizes in sides
        for side in (sizes if isinstance(sizes, list | tuple) else (sizes,))
    )


def shapes_of(model: nn.Module) -> list[Sequence[int]]:
    """The shapes of a model's parameters."""
    return [parameter.shape for parameter in model.parameters()]
