"""docs/results/performance.md says what was compared, and which benches are missing from it."""

import pytest

from tests.benchmarks.conftest import Figures, Performance


def test_ratios_and_failures_are_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()
    performance = Performance("test_step.py", figures, capsys)
    ratio = performance.compare(
        "a step", ours=2.5, other=5.0, unit="s", against="plain PyTorch", aim="<= 1"
    )
    performance.table("Memory", ["tasks", "bytes"], [["12", "3,456"]], "Of the stream's state.")
    figures.failed.append("tests/benchmarks/test_recall.py::test_ranks")
    text = figures.text("make bench")
    assert ratio == 0.5
    assert "| a step | 2.5 | 5 | s | 0.5 | <= 1 | plain PyTorch | test_step.py |" in text
    assert "## Memory\n\nOf the stream's state. (`test_step.py`)\n\n| tasks | bytes |" in text
    assert "## Failed\n\n- `tests/benchmarks/test_recall.py::test_ranks`\n" in text
    assert "command: `make bench`" in text


def test_without_a_failure_none_is_named() -> None:
    assert "Failed" not in Figures().text("make bench")
