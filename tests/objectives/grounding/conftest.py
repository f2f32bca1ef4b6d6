"""A small random grounder, and a benchmark of disks and squares for it."""

from pathlib import Path

import pytest

from system.data.shards.manifest import Manifest
from system.grounders.grounder import Grounder
from tests.diff_prompt.mask_files import prepare_shapes
from tests.grounders.small_glip import loaded, write_small_glip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_glip(tmp_path_factory.mktemp("glip"), ["the", "disk", "square"])


@pytest.fixture(scope="module")
def grounder(directory: Path) -> Grounder:
    return loaded(directory)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare_shapes(tmp_path_factory.mktemp("shapes"))
