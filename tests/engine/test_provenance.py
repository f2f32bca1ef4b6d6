"""Nobody can tell from which code or data a result came, if these fail."""

import os
import subprocess
from pathlib import Path

import torch

from system.data.shards.manifest import Manifest
from system.engine.provenance import (
    code_provenance,
    data_provenance,
    device_provenance,
    git_state,
)
from tests.data.coco_files import prepare_coco, write_coco


def test_commit_and_changed_files_are_told(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    assert git_state(tmp_path / "inner") is None  # another project's repository
    (tmp_path / "inner/code.py").write_text("2")
    git_state.cache_clear()
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_code_and_device_are_described() -> None:
    code = code_provenance()
    assert {"promptide", "ray", "transformers", "diffusers", "python"} <= code["versions"].keys()
    assert code["host"]["cores"] == os.cpu_count()
    assert device_provenance(torch.device("cpu"))["type"] == "cpu"


def test_data_are_described_by_fingerprint_and_source(tmp_path: Path) -> None:
    manifest = prepare_coco(write_coco(tmp_path / "raw", {"train": 2}), tmp_path / "out")
    found = data_provenance(Manifest.load(str(tmp_path / "out")))
    assert found["fingerprint"] == manifest.fingerprint
    assert found["source"]["format"] == "coco"
