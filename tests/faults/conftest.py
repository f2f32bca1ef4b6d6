"""What the tests of faults share: an undisturbed run to compare with."""

import random
from pathlib import Path

import pytest

from tests.faults.harness import FaultyRun
from tests.integration.small_stream import prepare_small_stream


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with data and backbone, and a run `reference`, made by the same command.

    Without a worker group it starts sooner, and has the same figures.
    """
    root = tmp_path_factory.mktemp("faults")
    prepare_small_stream(root)
    FaultyRun(root, "reference", random.Random(0), workers=0).complete([])
    return root
