"""Weights that others published: found on the hub or in files, read safely, compared by name.

Only tensors are read: safetensors, or PyTorch's own format with `weights_only`, which runs no code
of the file.
"""

from __future__ import annotations

import hashlib
import pickle  # nosec B403  # for its error; nothing is read by it
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.errors import ConfigError, StorageError
from system.uris import expanded

SAFE, TORCH = (".safetensors",), (".bin", ".pt", ".pth", ".ckpt")
CONFIG = "config.json"
PREFIX = "module."  # of weights that were saved while several GPUs trained them
NESTED = ("state_dict", "model")  # keys under which a checkpoint holds its raw weights
_NAMED = 6  # tensors that an error names


def fetched(source: str) -> Path:
    """A local file or folder as it is, or a folder with the weights and config of a hub id.

    Raises ConfigError for a source that is neither.
    """
    local = expanded(source)
    if local.exists():
        return local
    if local.is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise ConfigError(f"{source} is no file or folder, and no hub id such as owner/name")
    from huggingface_hub import snapshot_download

    patterns = [CONFIG, *(f"*{suffix}" for suffix in (*SAFE, *TORCH))]
    try:
        # Whatever the hub's newest revision is: its weights are read without running code.
        return Path(snapshot_download(source, allow_patterns=patterns))  # nosec B615
    except Exception as error:  # whatever the hub's client makes of a missing id or network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"{source} is no file or folder, and could not be fetched from the hub ({reason}); "
            "give the folder of its downloaded files"
        ) from error


def weight_file(place: Path) -> Path:
    """The one file of weights in a folder (safetensors before others), or the file that is given.

    Raises ConfigError if there is none, or several.
    """
    if place.is_file():
        return place
    for suffixes in (SAFE, TORCH):
        found = sorted(path for path in place.rglob("*") if path.suffix in suffixes)
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(place)) for path in found)
            raise ConfigError(f"{place} holds several files of weights ({names}); give the file")
        if found:
            return found[0]
    raise ConfigError(f"{place} holds no file of weights (*{', *'.join((*SAFE, *TORCH))})")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; the prefix `module.` goes where every name has it.

    Of a checkpoint that holds more, the raw weights. The tensors are mapped from the file as they
    are used, and changes to them stay in memory. Raises StorageError naming a file that is damaged
    or holds anything but tensors.
    """
    if file.suffix in SAFE:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _unprefixed(load_file(file))
        except SafetensorError as error:
            raise StorageError(f"{file} is damaged: {error}") from error
    whole = zipfile.is_zipfile(file)
    if not whole and _begins_as_zip(file):
        raise StorageError(f"{file} is damaged: its end is missing; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle's protocol: refused anyway
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError as error:
        raise StorageError(
            f"{file} is damaged, or holds objects beside tensors{_object_in(error)}, which are not "
            "loaded as they could run code; save its state_dict alone"
        ) from error
    except Exception as error:  # whatever the reader makes of a torn file
        raise StorageError(f"{file} is damaged: {' '.join(str(error).split())[:300]}") from error
    return _unprefixed(_state(found, file))


def require_same_names(
    state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], what: str
) -> None:
    """Raises ConfigError listing tensors that are missing, left over, or of another shape."""
    missing = [name for name in expected if name not in state]
    left_over = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    wrong = [
        f"{title}: {_listed(names)}"
        for title, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", misshapen),
        )
        if names
    ]
    if wrong:
        raise ConfigError(f"{what} does not fit; {'; '.join(wrong)}")


def digest_of(state: Mapping[str, Tensor]) -> str:
    """A digest of names, shapes, types and values."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def _state(found: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        if found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
        for key in NESTED:
            if isinstance(found.get(key), Mapping):
                return _state(found[key], file)
    kinds = _listed(list(map(str, found))) if isinstance(found, Mapping) else type(found).__name__
    raise StorageError(
        f"{file} holds no state_dict, alone or under {' or '.join(NESTED)}, but: "
        f"{kinds or 'nothing'}"
    )


def _unprefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(PREFIX) for name in state):  # else two names could become one
        return dict(state)
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def _object_in(error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({found[1]})" if found else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
