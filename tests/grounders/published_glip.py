"""Synthetic checkpoints of GLIP as the released code saves them, and a vocabulary beside.

The weights are made from their names and a seed: see `tests.golden.named_weights`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.named_weights import state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 3


def full_keys() -> dict[str, Any]:
    """The names and shapes of all tensors of GLIP-T (A)."""
    content: dict[str, Any] = json.loads((GOLDEN / "glip_t_a_keys.json").read_text("utf-8"))
    return dict(content["tensors"])


def small_keys(text_width: int = 48) -> dict[str, Any]:
    """Those of a GLIP with narrower towers and a head of two blocks.

    Its BERT has four attention heads; of one that is 64 wide nobody has to say how many: one.
    """
    with np.load(GOLDEN / "glip_end_to_end.npz") as fixture:
        keys = dict(json.loads(str(fixture["keys_json"])))
    for name, entry in keys.items():
        if name.startswith("language_") or name.endswith(("bias_lang", "projection_text.weight")):
            shape = [text_width if side == 48 else side for side in entry["shape"]]
            keys[name] = {**entry, "shape": shape}
    return keys


def small_vocabulary() -> list[str]:
    """Words for the small one."""
    with np.load(GOLDEN / "glip_end_to_end.npz") as fixture:
        return list(json.loads(str(fixture["config_json"]))["vocabulary"])


def named(keys: Mapping[str, Any], seed: int = SEED) -> dict[str, Tensor]:
    """Weights of those names and shapes."""
    return {name: torch.from_numpy(value) for name, value in state_dict(keys, seed).items()}


def write_published(file: Path, weights: Mapping[str, Tensor]) -> Path:
    """A checkpoint of a training on several GPUs, with what else it holds."""
    model = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"model": model, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 3}, file)
    return file


def write_vocabulary(folder: Path, words: Sequence[str]) -> Path:
    """A tokenizer as BERT's authors distribute it: a vocabulary alone."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    return folder
