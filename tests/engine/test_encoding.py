"""Stored features are found again by everything that they depend on, rounding included."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from system.backbones.clip import load_clip
from system.backbones.computation import Computation
from system.config.schema import InputConfig, PixelPath
from system.data.shards import pixel_cache
from system.data.shards.pixel_cache import PixelCache
from system.engine.encoding import Encoder
from system.engine.worker_group import WorkerGroup
from tests.backbones.small_clip import write_small_clip
from tests.data.shards.conftest import Prepared, prepared

__all__ = ["prepared"]  # a fixture


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_clip(tmp_path_factory.mktemp("clip"), ["a", "dog"])


def key(directory: Path, computation: Computation, device: str = "cpu", block: int = 4) -> str:
    group = WorkerGroup(rank=0, size=1, device=torch.device(device))
    encoder = Encoder(load_clip(str(directory), computation), group, block, threads=1)
    return encoder.feature_key([])


def test_features_of_another_rounding_are_not_taken_for_these(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures in fp32 would come from features in bf16 that an earlier run had left."""
    monkeypatch.setattr("system.config.precision.cpu_has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    different = [
        key(directory, Computation()),
        key(directory, Computation(), device="cuda"),
        key(directory, Computation("bf16")),
        key(directory, Computation("fp32"), device="cuda"),
        key(directory, Computation(compile=True)),
        key(directory, Computation(), block=8),
        key(directory, Computation(text_padding="longest")),
    ]
    assert len(set(different)) == len(different)


def test_what_does_not_change_features_shares_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is encoded twice for the sake of a setting that only saves memory."""
    monkeypatch.setattr("system.config.precision.cpu_has_bf16", lambda: False)
    same = key(directory, Computation())
    assert key(directory, Computation("fp32")) == same
    assert key(directory, Computation(gradient_checkpointing=True)) == same


def test_features_of_other_pixels_are_not_taken_for_these(directory: Path) -> None:
    """And those that were stored before there was a choice of pixels are found again."""
    group = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
    backbone = load_clip(str(directory))
    keys = {
        pixels: Encoder(backbone, group, 4, 1, inputs=InputConfig(pixels=pixels)).feature_key([])
        for pixels in get_args(PixelPath)
    }
    assert len(set(keys.values())) == len(keys) == 3
    assert keys["processor"] == key(directory, Computation())
    assert "pixels" not in InputConfig().feature_settings


def test_features_from_bytes_are_the_processor_s_to_the_bit(
    directory: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes from the cache too, and with the last block filled up."""
    monkeypatch.setattr(pixel_cache, "cache_folder", lambda: tmp_path / "pixels")
    handle, _ = prepared
    group = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
    backbone = load_clip(str(directory))
    found = []
    for inputs in (InputConfig(), InputConfig(pixels="fast")):
        transform = backbone.image_transform(inputs)
        shape = backbone.shape.image_bytes
        cache = PixelCache.wanted(0.001, transform.cache_key, shape)
        assert (cache is None) == (inputs.pixels == "processor")
        encoder = Encoder(backbone, group, 8, threads=1, inputs=inputs, cache=cache)
        found += [encoder.images(handle, range(handle.rows), transform, None) for _ in range(2)]
    for features in found[1:]:
        assert torch.equal(features, found[0])


TEXTS = ["a dog", "a dog " * 5, "dog", "a " * 11, "dog a", "a dog " * 4]  # of both padded lengths


def encoded(directory: Path, texts: list[str], group: WorkerGroup, block: int = 4) -> torch.Tensor:
    backbone = load_clip(str(directory), Computation(text_padding="longest"))
    return Encoder(backbone, group, block, threads=1).texts(texts, None)


def test_a_text_s_feature_depends_on_no_other_text(directory: Path) -> None:
    """One that is encoded again alone, as its route changed, would get another rounding."""
    alone = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
    whole = encoded(directory, TEXTS, alone)
    for places in ([0], [3, 0], [5, 4, 3, 2, 1]):
        part = encoded(directory, [TEXTS[i] for i in places], alone)
        assert torch.equal(part, whole[places])


def test_texts_are_dealt_out_so_that_features_do_not_depend_on_the_workers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    whole = encoded(directory, TEXTS, WorkerGroup(rank=0, size=1, device=cpu), block=2)
    monkeypatch.setattr(
        "system.engine.encoding.in_order", lambda group, rows, places: (rows, places)
    )
    seen = []
    for rank in range(3):
        rows, places = encoded(directory, TEXTS, WorkerGroup(rank, 3, cpu), block=2)
        assert torch.equal(rows, whole[places])
        seen += list(places)
    assert sorted(seen) == list(range(len(TEXTS)))
