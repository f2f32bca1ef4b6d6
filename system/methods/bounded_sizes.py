"""Sizes that a method's settings ask for, compared with its frozen model before they are allocated.

The settings may come from somebody's adapters: a rank of 10^9 would be tried, and 16 TB with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from system.errors import ConfigError

#: A size up to this is right for any model, however narrow: more tokens than any prompt has.
LEAST_SIDE = 4096
#: So many numbers, 256 MB, may be made for any model, and for a larger one four times its own.
LEAST_NUMBERS = 1 << 26

# Arguments of an operation that makes a tensor from numbers alone, which say how large it is.
_SIZES = ("size", "end", "steps", "n", "m")


def require_sizes(section: Mapping[str, Any], model: nn.Module, where: str = "method") -> None:
    """Compare each whole number of a method's settings with the widest side of a frozen model.

    Seeds are no sizes. Raises ConfigError naming the first that is larger than anything there.
    """
    sides = (side for parameter in model.parameters() for side in parameter.shape)
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
            f"{where}={value} is larger than anything in the frozen model, whose widest side is "
            f"{most}; set a size that fits it"
        )


@contextmanager
def bounded_allocation(model: nn.Module, where: str = "method") -> Iterator[None]:
    """A block that builds parts of a method in proportion to its frozen model.

    Raises ConfigError before a tensor is made that leaves it.
    """
    most = max(LEAST_NUMBERS, 4 * sum(parameter.numel() for parameter in model.parameters()))
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
                f"the frozen model, for which at most {self.most:,} are made; set smaller ones"
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
