"""Files that others published are read without running their code, and compared by name."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from system.errors import ConfigError, StorageError
from system.storage.published_weights import (
    digest_of,
    fetched,
    read_weights,
    require_same_names,
    weight_file,
)

STATE = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}


class Harmful:
    """What pickle would call at loading."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of the file ran')",))


@pytest.mark.parametrize(
    "held",
    [
        STATE,
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"model": STATE, "ema": {"a.weight": torch.zeros(2, 3)}, "epoch": 157},
        {"state_dict": STATE},
    ],
)
def test_raw_weights_are_found_in_a_checkpoint(tmp_path: Path, held: object) -> None:
    """An average, or names with the prefix of a training on several GPUs, would fit nothing."""
    file = tmp_path / "weights.pt"
    torch.save(held, file)
    read = read_weights(file)
    assert set(read) == set(STATE)
    assert torch.equal(read["a.weight"], STATE["a.weight"])


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    torch.save({**STATE, "args": Harmful()}, file)
    with pytest.raises(StorageError, match=r"weights\.bin.*\((builtins\.)?exec\).*could run code"):
        read_weights(file)


def test_a_prefix_that_not_every_name_has_is_part_of_the_names(tmp_path: Path) -> None:
    """As the released loaders have it; else `module.a` and `a` would become one."""
    file = tmp_path / "weights.pt"
    torch.save({"module.a": torch.ones(1), "a": torch.zeros(1)}, file)
    assert {name: float(value) for name, value in read_weights(file).items()} == {
        "module.a": 1.0,
        "a": 0.0,
    }


def test_changes_to_what_was_read_stay_in_memory(tmp_path: Path) -> None:
    """The tensors are mapped from the file, which must not change while a head is trained."""
    file = tmp_path / "weights.pt"
    torch.save(STATE, file)
    read_weights(file)["a.weight"].add_(1)
    assert torch.equal(read_weights(file)["a.weight"], STATE["a.weight"])


def test_files_of_before_pytorch_1_6_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(file)["a.weight"], STATE["a.weight"])


def test_a_download_that_ended_early_says_so(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(StorageError, match=r"weights\.pth is damaged: its end is missing"):
        read_weights(file)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("weights.safetensors", b"broken", "damaged"),
        ("weights.pt", b"broken", "damaged"),
        ("weights.pt", {"epoch": 3, "optimizer": {}}, "holds no state_dict.*epoch, optimizer"),
    ],
)
def test_a_file_without_weights_is_named(
    tmp_path: Path, name: str, content: object, says: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(StorageError, match=f"{name}.*{says}"):
        read_weights(file)


def test_safetensors_come_before_others_and_several_are_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert weight_file(tmp_path).name == "pytorch_model.bin"
    save_file(STATE, tmp_path / "model.safetensors")
    assert weight_file(tmp_path).name == "model.safetensors"
    assert set(read_weights(weight_file(tmp_path))) == set(STATE)
    save_file(STATE, tmp_path / "ema.safetensors")
    with pytest.raises(ConfigError, match=r"ema\.safetensors, model\.safetensors"):
        weight_file(tmp_path)
    assert weight_file(tmp_path / "ema.safetensors").name == "ema.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file of weights"):
        weight_file(tmp_path / "empty")


def test_every_tensor_that_does_not_fit_is_named() -> None:
    """A network whose other half stayed random draws something, and nobody sees why."""
    require_same_names(STATE, {"a.weight": (2, 3), "a.bias": (2,)}, "it")
    expected = {"a.weight": (3, 3), "b.weight": (1,)}
    with pytest.raises(ConfigError) as error:
        require_same_names(STATE, expected, "it")
    assert "missing: b.weight" in str(error.value)
    assert "left over: a.bias" in str(error.value)
    assert "a.weight (2, 3) instead of (3, 3)" in str(error.value)


def test_a_hub_id_is_fetched_and_a_place_that_is_not_there_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(source: str, allow_patterns: list[str]) -> str:
        asked.append(source)
        if source == "owner/missing":
            raise OSError("404 of the hub\nand a second line")
        assert "*.safetensors" in allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert fetched("owner/name") == tmp_path
    assert fetched(str(tmp_path)) == tmp_path
    for source in ("/no/such/place", "./missing", "a/b/c", "name"):
        with pytest.raises(ConfigError, match="no hub id"):
            fetched(source)
    with pytest.raises(ConfigError, match=r"404 of the hub\).*folder of its downloaded files"):
        fetched("owner/missing")
    assert asked == ["owner/name", "owner/missing"]


def test_a_digest_is_of_names_and_values() -> None:
    assert digest_of(STATE) == digest_of(dict(reversed(STATE.items())))
    others = [{"b.weight": STATE["a.weight"]}, {**STATE, "a.bias": torch.ones(2)}]
    assert len({digest_of(state) for state in (STATE, *others)}) == 3
