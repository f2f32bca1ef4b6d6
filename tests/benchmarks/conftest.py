"""`performance`: what a bench hands its figures to, for the terminal and docs/results."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from system.engine.provenance import git_state

PROJECT = Path(__file__).resolve().parents[2]
HEAD = ("what", "ours", "other", "unit", "ours / other", "aim", "against", "bench")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rows(cells: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return _rows([head, ["---"] * len(head), *rows])


@dataclass
class Figures:
    """All that a session's benches found."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def text(self, command: str) -> str:
        """The whole of docs/results/performance.md."""
        state = git_state(PROJECT)
        commit = "unknown" if state is None else state["commit"] + "+changes" * state["dirty"]
        facts = {
            "command": f"`{command}`",
            "commit": f"`{commit}`",
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "processor": f"{_processor()}, {os.cpu_count()} cores",
            "threads of torch": str(torch.get_num_threads()),
            "load": f"{self.load:.1f} when it began; at 0 nothing else ran on the machine",
        }
        parts = [
            "# Performance\n\nWritten by the benchmarks of `tests/benchmarks`. Each compares two "
            "ways of doing the same work in one process, in turn: the ratios are claims, the "
            "seconds are of this machine alone. Of seconds and bytes less is better, of rates "
            "(1/s) more.\n\n",
            "".join(f"- {name}: {value}\n" for name, value in facts.items()),
            f"\n## Ours against others\n\n{markdown(HEAD, self.rows)}" if self.rows else "",
            *(f"\n{table}" for table in self.tables),
            "\n## Failed\n\n" * bool(self.failed),
            *(f"- `{name}`\n" for name in self.failed),
        ]
        return "".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


FIGURES = pytest.StashKey[Figures]()


class Performance:
    """Takes the figures of one bench."""

    def __init__(self, bench: str, figures: Figures, capsys: pytest.CaptureFixture[str]) -> None:
        self._bench = bench
        self._figures = figures
        self._capsys = capsys

    def compare(
        self, what: str, *, ours: float, other: float, unit: str, against: str, aim: str = ""
    ) -> float:
        """Note ours and another way of doing the same work; returns ours / other.

        `unit` is of both, such as "s", "MB" or "images/s"; `aim` what the ratio should be, such as
        "<= 1.05".
        """
        ratio = ours / other
        row = (what, _number(ours), _number(other), unit, f"{ratio:.3g}", aim, against, self._bench)
        self._figures.rows.append(row)
        self._print(
            f"{what}: {_number(ours)} {unit}, {against} {_number(other)} {unit}: x{ratio:.3g}"
            + f" (aim {aim})" * bool(aim)
        )
        return ratio

    def table(
        self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
    ) -> None:
        """Note a table of its own, under a title, with a sentence on what it says."""
        body = markdown(head, rows)
        said = f"{note} (`{self._bench}`)\n\n" if note else f"`{self._bench}`\n\n"
        self._figures.tables.append(f"## {title}\n\n{said}{body}")
        self._print(f"{title}\n{body}")

    def _print(self, text: str) -> None:
        with self._capsys.disabled():
            print(f"\n{text}")  # noqa: T201


@pytest.fixture
def performance(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Performance:
    """Takes this bench's figures."""
    return Performance(request.node.path.name, _figures(request.config), capsys)


def _figures(config: pytest.Config) -> Figures:
    return config.stash.setdefault(FIGURES, Figures())


def pytest_sessionstart(session: pytest.Session) -> None:
    """Look at the machine's load before the first bench."""
    _figures(session.config)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the file that --performance names."""
    target: str | None = config.getoption("--performance")
    if target is None:
        return
    figures, stats = _figures(config), terminalreporter.stats
    figures.failed = [each.nodeid for kind in ("failed", "error") for each in stats.get(kind, ())]
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(figures.text(f"python -m pytest {' '.join(config.invocation_params.args)}"))
