"""Where a method's prompts and functions enter a frozen grounder, and what that leaves as it is.

Legend: B batch, N prompt length, D width of a layer, T tokens, P feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from system.grounders.swin_prompts import WindowEntry

#: Where the image's half of a grounder can be cut, so that what is before is computed once: at the
#: levels that its vision tower hands on, or at those that its last layers read boxes and scores of.
ImagePlace = Literal["levels", "regions"]


@dataclass(frozen=True)
class Added:
    """Prompts that are added to a grounder's tokens: see `system.grounders.lockstep`.

    A layer's prompt is (1, n, D) or (B, n, D) in that layer's own width; the first prompt of a
    tower enters before its first layer. In the layers of `exchanging`, which both towers have
    prompts in, `exchange` gets the layer and the two towers' tokens where prompts were added,
    (B, n, D) and (B, N, D), and gives what replaces them.
    """

    vision: Sequence[Tensor]
    text: Sequence[Tensor]
    exchange: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda _, vision, text: (
        vision,
        text,
    )
    exchanging: range = range(0)

    @property
    def text_length(self) -> int:
        """How many tokens a text must have at least, padding among them."""
        return max((prompt.shape[1] for prompt in self.text), default=0)


@dataclass(frozen=True)
class Reach:
    """What of a grounder a method leaves as it is: for all samples the frozen model's own.

    `image` is the last place of the image's half that nothing of the method comes before; None: its
    vision tower is entered. `text`: whether the text tower is entered.
    """

    image: ImagePlace | None = None
    text: bool = True


@dataclass(frozen=True)
class Entries:
    """The prompts and functions of a method inside a grounder; none is the frozen model.

    A layer's prompt is (1, N, D) or (B, N, D) in that layer's own width; the first prompt of a
    tower enters its first layer. Prompts stand beside the layer's tokens, take part in its
    attention and are dropped from its output. `windows` holds the vision tower's prompts that
    enter behind a block's norm, and how prompts stand in its windows. A context (1, N, D) or
    (B, N, D) passes through the whole text tower beside the expression's tokens and is dropped at
    its end. `added` prompts change the tokens themselves, and the two towers then run in step. The
    functions change what leaves the towers, each level (B, P_level, H, W) of the vision tower and
    the text's tokens (B, T, D), and each level (B, C, H, W) of the pyramid, which is made of the
    vision tower's levels. `head` takes the place of some of `Grounder.head_layers`, for the whole
    batch.
    """

    vision: Sequence[Tensor] = ()
    text: Sequence[Tensor] = ()
    context: Tensor | None = None
    adapt_level: Callable[[int, Tensor], Tensor] | None = None
    adapt_text: Callable[[Tensor], Tensor] | None = None
    adapt_pyramid: Callable[[int, Tensor], Tensor] | None = None
    windows: WindowEntry = field(default_factory=WindowEntry)
    added: Added | None = None
    head: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def reach(self) -> Reach:
        """What these leave as it is; prompts enter a tower from its first layer on."""
        if self.added is not None:  # the towers run in step
            return Reach()
        place: ImagePlace | None = "regions"
        if self.vision or self.windows.after_norm:
            place = None
        elif self.adapt_level is not None or self.adapt_pyramid is not None:
            place = "levels"
        return Reach(place, bool(self.text) or self.context is not None)

    def each_alone(self) -> Entries:
        """The same as each sample has it by itself, whatever stands beside it in the batch.

        The released tiling of prompts changes nothing for an image alone, as which it was judged.
        """
        if self.windows.tiling == "sample":
            return self
        return replace(self, windows=replace(self.windows, tiling="sample"))
