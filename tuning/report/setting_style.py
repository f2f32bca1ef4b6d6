"""How a setting looks in every chart of a sweep: colour, dash and marker by its place."""

from dataclasses import dataclass

from system.report.charts.chart_style import BLUE, GREY, ORANGE, VERMILION

# After Okabe and Ito; neighbours differ in dash and marker too, for grey print.
COLORS = (BLUE, VERMILION, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#5B4A8A")
DASHES = ("solid", "dash", "dot")
# No crosses: they mark what was stopped.
MARKERS = (
    *("circle", "square", "diamond", "triangle-up"),
    *("hexagon", "triangle-down", "star", "pentagon"),
)
MOST_COLORED = len(COLORS) * len(DASHES)


@dataclass(frozen=True)
class SettingStyle:
    """Colour, line dash and marker of one setting."""

    color: str
    dash: str
    marker: str


def style_of(place: int) -> SettingStyle:
    """The style of the setting at a place of the comparison, best first."""
    return SettingStyle(
        COLORS[place % len(COLORS)] if place < MOST_COLORED else GREY,
        DASHES[place // len(COLORS) % len(DASHES)],
        MARKERS[place % len(MARKERS)],
    )
