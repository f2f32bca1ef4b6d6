"""What a sweep goes by, in the words of tables and charts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """The figure that is to be large: `name` with its `unit`, and how many `tasks` lead to it.

    `kind` is that of the trials, see `tuning.run.trial_kind`.
    """

    kind: str
    name: str
    unit: str
    tasks: int

    @classmethod
    def of(cls, sweep: Mapping[str, Any]) -> "Measure":
        """As sweep.json has it."""
        figure = sweep["figure"]
        return cls(sweep["kind"], figure["name"], figure["unit"], len(sweep["tasks"]))

    @property
    def heading(self) -> str:
        """The name at the start of a line; a key stays as it is written."""
        return self.name.capitalize() if " " in self.name else self.name

    @property
    def title(self) -> str:
        """For an axis or a column."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def axis(self, when: str) -> str:
        """For an axis of figures taken at one time: `average recall at the end, %`."""
        return f"{self.name} {when}, {self.unit}" if self.unit else f"{self.name} {when}"

    def after(self, tasks: int) -> str:
        """When a figure was taken."""
        if tasks == self.tasks:
            return "at the end"
        return f"after {tasks} of {self.tasks} tasks"

    def number(self, figure: float) -> str:
        """A figure in as many digits as tell trials apart."""
        return f"{figure:.2f}" if self.unit else f"{figure:.4g}"

    def text(self, figure: float) -> str:
        """A figure with its unit."""
        return f"{self.number(figure)} {self.unit}".rstrip()


def counted(tasks: int) -> str:
    """So many tasks, in words."""
    return "1 task" if tasks == 1 else f"{tasks} tasks"
