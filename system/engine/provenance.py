"""Provenance of a run's results: the data, the code, the packages and the machine behind them."""

import importlib.metadata
import os
import platform
import subprocess  # nosec B404  # git, see `git_state`
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from system.data.shards.manifest import Manifest

PACKAGES = (
    *("promptide", "torch", "ray", "transformers", "diffusers", "pyarrow"),
    *("numpy", "pillow", "tokenizers", "scikit-learn"),
)
_CODE = Path(__file__).resolve().parents[2]
_SECONDS = 10.0  # for Git, which may stand on a slow share


def data_provenance(manifest: Manifest) -> dict[str, Any]:
    """Describe a prepared benchmark: name, fingerprint, and its source as prepared.

    The source has the dataset and its options, the division of a data set that has several, what
    was left out and put aside, and how images are decoded.
    """
    return {
        "name": manifest.benchmark,
        "fingerprint": manifest.fingerprint,
        "source": dict(manifest.source),
    }


def code_provenance() -> dict[str, Any]:
    """Describe what computes: versions of Python and packages, the code's Git state, the host.

    Returns: "versions", "git" (commit and whether files differ from it; None where the code is in
    no repository) and "host" (system and number of cores).
    """
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions,
        "git": git_state(_CODE),
        "host": {"system": platform.platform(), "cores": os.cpu_count()},
    }


def device_provenance(device: torch.device) -> dict[str, Any]:
    """Describe a worker's device, and the host that it is on."""
    cuda = device.type == "cuda"
    return {
        "type": device.type,
        "name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "host_cores": os.cpu_count(),
    }


@lru_cache
def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether its files differ; None outside of one.

    A repository that merely holds an installed copy somewhere inside is another project's.
    """

    def git(*words: str) -> str | None:
        try:
            # No shell, the words are this function's; git is whichever the user's PATH finds.
            done = subprocess.run(  # noqa: S603  # nosec B603 B607
                ["git", "-C", str(folder), *words],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != folder.resolve():
        return None
    return {"commit": commit, "dirty": git("status", "--porcelain") != ""}
