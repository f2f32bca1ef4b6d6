"""One small checkpoint of each kind of backbone, written once a module of tests."""

from pathlib import Path
from typing import Any

import pytest

from system.backbones.tower_pair import TowerPair
from tests.backbones.small_backbones import KINDS, LAYERS, WORDS, Kind


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def checkpoint(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kind.write(tmp_path_factory.mktemp(kind.name), WORDS, layers=LAYERS)


@pytest.fixture(scope="module")
def pair(kind: Kind, checkpoint: Path) -> TowerPair:
    return kind.load(str(checkpoint))


@pytest.fixture(scope="module")
def library(kind: Kind, checkpoint: Path) -> Any:
    # Frozen as ours is: PyTorch's attention of SigLIP's head takes another way for weights that
    # train, whose last bits differ on some processors.
    return kind.plain.from_pretrained(checkpoint).eval().requires_grad_(False)
