from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from system.diff_prompt.prompt_generator.generator_files import (
    HEADER,
    WEIGHTS,
    GeneratorHeader,
    load_generator,
    require_same_latents,
    save_generator,
)
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import NoiseSchedule
from system.errors import AdapterMismatchError, ConfigError, StorageError
from system.storage.files import Folder

NETWORK = MaskDitConfig(latent_channels=2, latent_size=4, depth=1, width=8, heads=2)
LOG = ({"loss": 0.5},)
HEADER_OF = GeneratorHeader(NETWORK, NoiseSchedule(), "clip", "abc", "vae", 0.0, 9, LOG)


@pytest.fixture
def saved(tmp_path: Path) -> Folder:
    folder = Folder.of(tmp_path)
    save_generator(folder, MaskDiT(NETWORK, seed=3), HEADER_OF)
    return folder


def test_weights_and_header_come_back_as_they_were(saved: Folder) -> None:
    network, header = load_generator(saved, schedule=NoiseSchedule())
    assert header == HEADER_OF
    for name, tensor in MaskDiT(NETWORK, seed=3).state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_sampling_with_another_schedule_is_refused(saved: Folder) -> None:
    with pytest.raises(AdapterMismatchError, match="noise schedule"):
        load_generator(saved, schedule=NoiseSchedule("linear"))


def test_guidance_without_dropped_conditions_is_refused(saved: Folder) -> None:
    """The prediction without a condition was never trained: guidance would add noise."""
    with pytest.raises(AdapterMismatchError, match="condition_dropout"):
        load_generator(saved, guidance=2.0)


def test_weights_of_other_sizes_are_refused(saved: Folder) -> None:
    other = replace(HEADER_OF, network=replace(NETWORK, depth=2))
    saved.write_json(HEADER, {**saved.read_json(HEADER), "network": vars(other.network)})
    with pytest.raises(AdapterMismatchError, match=r"blocks\.1"):
        load_generator(saved)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda f: f.delete(HEADER), StorageError, "train a generator"),
        (lambda f: f.write(WEIGHTS, b"broken"), StorageError, "damaged"),
        (lambda f: f.write(HEADER, b"[]"), StorageError, "header"),
        (lambda f: f.write(HEADER, b'{"format_version": 9}'), StorageError, "newer"),
        (lambda f: f.write(HEADER, b'{"schedule": {}}'), ConfigError, "network"),
    ],
)
def test_damaged_files_are_one_clear_error(
    saved: Folder, change: object, error: type[Exception], says: str
) -> None:
    assert callable(change)
    change(saved)
    with pytest.raises(error, match=says):
        load_generator(saved)


@pytest.mark.parametrize(
    ("section", "sizes", "says"),
    [
        ("network", {"width": 4 * 10**9}, r"generator\.json\.network\.width=4000000000 is larger"),
        ("network", {"depth": 10**9}, r"network\.depth=1000000000 is larger"),
        ("schedule", {"steps": 10**12}, r"schedule\.steps=1000000000000 is larger"),
        (
            "network",
            {"width": 4096, "mlp_ratio": 4096},
            r"generator\.json: its sizes make .* out of",
        ),
    ],
)
def test_sizes_out_of_proportion_to_the_weights_are_not_allocated(
    saved: Folder, section: str, sizes: dict[str, int], says: str
) -> None:
    """The folder may be somebody else's."""
    values = saved.read_json(HEADER)
    values[section] = {**values[section], **sizes}
    saved.write_json(HEADER, values)
    with pytest.raises(ConfigError, match=says):
        load_generator(saved)


def test_another_vaes_latents_are_refused() -> None:
    require_same_latents(NETWORK, (2, 4, 4), "vae")
    with pytest.raises(AdapterMismatchError, match=r"2 x 4 x 4.*4 x 28 x 28"):
        require_same_latents(NETWORK, (4, 28, 28), "vae")
