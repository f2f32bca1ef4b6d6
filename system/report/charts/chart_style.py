"""Shared parts of all charts: colours distinct for colour-blind readers, layout, escaping."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from plotly import graph_objects as go

from system.escapes import label

# After Okabe and Ito, the blue lightened for dark pages. Series also differ in lightness, dash or
# marker, for grey print.
BLUE = "#1A80BB"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
GREY = "#9AA3AF"
# One hue from light to dark: reads in grey print and keeps vermilion free for marks upon it.
SEQUENTIAL = [[0.0, "#F3F7FB"], [0.35, "#A9CBE3"], [0.7, "#3D8BBD"], [1.0, "#08406B"]]
CELL_TEXT_LIMIT = 20  # more columns than this leave no room for a number in each cell


@dataclass(frozen=True)
class Choice:
    """A button of a chart: its label and which traces it shows."""

    label: str
    visible: tuple[bool, ...]


@dataclass(frozen=True)
class Chart:
    """A figure of the page; `min_width` pixels is what it needs before it scrolls sideways."""

    key: str
    title: str
    caption: str
    figure: go.Figure
    choices: tuple[Choice, ...] = ()
    min_width: int = 560

    @property
    def content(self) -> dict[str, object]:
        """The figure as plain JSON values, undefined numbers as null."""
        content = json.loads(self.figure.to_json())
        assert isinstance(content, dict)
        return content


def labels(texts: Sequence[str]) -> list[str]:
    """Users' texts for use in a figure."""
    return [label(text) for text in texts]


def base_layout(height: int, **changes: object) -> go.Layout:
    """Layout with transparent grounds; the page's script sets ink and grid to its theme."""
    settings: dict[str, object] = {
        "template": go.layout.Template(),
        "height": height,
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 12},
        "margin": {"l": 64, "r": 16, "t": 32, "b": 56},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
    }
    return go.Layout(**(settings | changes))
