"""Stored features are found again by everything that they depend on, rounding included."""

from pathlib import Path

import pytest
import torch

from system.backbones.clip import load_clip
from system.backbones.computation import Computation
from system.engine.encoding import Encoder
from system.engine.worker_group import WorkerGroup
from tests.backbones.small_clip import write_small_clip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_clip(tmp_path_factory.mktemp("clip"), ["a", "dog"])


def key(directory: Path, computation: Computation, device: str = "cpu", block: int = 4) -> str:
    group = WorkerGroup(rank=0, size=1, device=torch.device(device))
    encoder = Encoder(load_clip(str(directory), computation), group, block, threads=1)
    return encoder.feature_key([])


def test_features_of_another_rounding_are_not_taken_for_these(directory: Path) -> None:
    """Figures in fp32 would come from features in bf16 that an earlier run had left."""
    different = [
        key(directory, Computation()),
        key(directory, Computation(), device="cuda"),
        key(directory, Computation("bf16")),
        key(directory, Computation("fp32"), device="cuda"),
        key(directory, Computation(compile=True)),
        key(directory, Computation(), block=8),
    ]
    assert len(set(different)) == len(different)


def test_what_does_not_change_features_shares_them(directory: Path) -> None:
    """Nothing is encoded twice for the sake of a setting that only saves memory."""
    same = key(directory, Computation())
    assert key(directory, Computation("fp32")) == same
    assert key(directory, Computation(gradient_checkpointing=True)) == same
