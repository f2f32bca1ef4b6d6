"""The terminal as all commands write to it: texts are texts there, and secrets are not shown."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from typing_extensions import override

from system.escapes import terminal
from system.redaction import redacted


class PlainConsole(Console):
    """A console that reads no markup and passes on no control sequence but Rich's own.

    Names and paths may hold what else would be a markup, a picture's code, or would move the
    cursor.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    @override
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(terminal(redacted(segment.text)), segment.style)
