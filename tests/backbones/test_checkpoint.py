"""A checkpoint that is not whole, or not there, is one clear error, whatever kind it should be."""

import shutil
import time
from pathlib import Path

import pytest
import torch

from system.backbones.tower_pair import TowerPair
from system.errors import ConfigError
from tests.backbones.edited_checkpoint import Edit, edited, in_json, removed, written
from tests.backbones.small_backbones import LAYERS, Kind

HUB_ID = "somebody/small-model"
COMMIT = "0" * 40


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, offline."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def fill(cache: Path, checkpoint: Path) -> Path:
    """Put a checkpoint where `hf download` would; returns the folder of its files."""
    repository = cache / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(checkpoint, repository / "snapshots" / COMMIT))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (removed("config.json"), r"has no config\.json"),
        (removed("model.safetensors"), r"has no model\.safetensors"),
        (removed("tokenizer.json"), r"has no tokenizer\.json"),
        (removed("preprocessor_config.json"), r"has no preprocessor_config\.json"),
        (written("config.json", b"{"), r"config\.json is not valid JSON"),
        (written("tokenizer_config.json", b"{"), r"tokenizer_config\.json is not valid JSON"),
        (written("model.safetensors", b"x" * 99), "the weights could not be loaded"),
        (in_json("config.json", model_type="bert"), "holds a 'bert' model, not a (CLIP|SigLIP)"),
        (in_json("config.json", model_type="foo"), r"the config\.json could not be loaded.*`foo`"),
        (
            in_json("config.json", "vision_config", num_hidden_layers=LAYERS + 1),
            r"the weights lack 16 of the model's tensors \(vision_model\.encoder\.layers\.3",
        ),
    ],
)
def test_a_wrong_directory_is_one_error_naming_the_file(
    kind: Kind, checkpoint: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    """Some of these would load without an error, with random weights or an empty tokenizer."""
    with pytest.raises(ConfigError, match=message) as caught:
        kind.load(str(edited(checkpoint, tmp_path, edit)))
    assert "backbone.path" in str(caught.value)
    assert "hf download" not in str(caught.value)  # no remedy for a directory


@pytest.mark.parametrize("path", ["/no/such/directory", "./no-such-directory"])
def test_a_directory_that_is_not_there_is_no_hub_id(kind: Kind, path: str) -> None:
    """Or a typing error would be looked for on the hub."""
    with pytest.raises(ConfigError, match=r"does not exist.*promptide pretrain") as caught:
        kind.load(path)
    assert f"backbone.path={path!r}" in str(caught.value)


@pytest.mark.parametrize("path", [HUB_ID, "not a/hub/id"])
def test_offline_without_a_cache_names_the_three_ways_out_at_once(
    kind: Kind, hub_cache: Path, path: str
) -> None:
    """Half a minute of tries at a hub that can't be reached is no answer."""
    started = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        kind.load(path)
    assert time.perf_counter() - started < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"backbone.path={path!r}", "local directory", f"hf download {path}", "go online"):
        assert part in message


def test_a_hub_id_is_loaded_from_the_cache(
    kind: Kind, checkpoint: Path, pair: TowerPair, hub_cache: Path
) -> None:
    """A cluster without the internet has the cache alone."""
    fill(hub_cache, checkpoint)
    cached = kind.load(HUB_ID)
    assert cached.name == HUB_ID
    assert cached.fingerprint == pair.fingerprint
    assert torch.equal(cached.tokenize(["a red dog"], 2), pair.tokenize(["a red dog"], 2))


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tokenizer.json", "tokenizer"),
        ("model.safetensors", "weights"),
        ("preprocessor_config.json", "image processor"),
    ],
)
def test_half_a_cache_is_told_from_a_whole_one(
    kind: Kind, checkpoint: Path, hub_cache: Path, file: str, part: str
) -> None:
    """Without tokenizer.json the library makes a tokenizer that knows no word."""
    (fill(hub_cache, checkpoint) / file).unlink()
    with pytest.raises(ConfigError, match=f"{part}.*hf download {HUB_ID}"):
        kind.load(HUB_ID)
