"""What the integration tests share: one prepared stream and its uninterrupted run."""

from pathlib import Path

import pytest
from rich.console import Console

from system.cli.run import carry_out
from tests.integration.small_stream import prepare_small_stream, small_experiment


@pytest.fixture(scope="session")
def small_stream(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A root with data and backbone, and a run `reference` that nothing disturbed."""
    root = tmp_path_factory.mktemp("stream")
    prepare_small_stream(root)
    experiment = small_experiment(root, "reference", "cluster.workers=0")
    carry_out(experiment, Console(quiet=True))
    return root
