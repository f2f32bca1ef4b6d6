"""Tests that need a GPU: skipped, with the reason, where torch sees none."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
REASON = "needs a GPU, and torch sees none here (torch.cuda.is_available() is false)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` in this folder."""
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=REASON))
