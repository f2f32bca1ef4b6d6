"""What a config's autos came to as a run began holds to its end, wherever it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.storage.adapters import HEADER, AdapterFolder, AdapterHeader
from system.storage.run_directory import CONFIG, RunDirectory
from system.stream.settled import require_same_precision, settled
from tests.engine.thread_group import ALONE, on_threads

HEAD = AdapterHeader("b", "f", {"name": "lpi"}, "shapes", "g", "corrected", 0, ("a",))


def experiment(tmp_path: Path, *more: str) -> ExperimentConfig:
    words = (f"storage_path={tmp_path}", "run_name=one", "backbone.precision=auto")
    return compose([*words, "stage.batch_size=24", *more])


def found(run: ExperimentConfig) -> ExperimentConfig:
    return settled(run, RunDirectory.of(run), ALONE)


def has_bf16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr("system.config.precision.cpu_has_bf16", lambda: native)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_new_run_computes_as_its_processor_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    has_bf16(monkeypatch, native)
    assert found(experiment(tmp_path)).backbone.precision == precision
    assert found(experiment(tmp_path, "backbone.precision=fp32")).backbone.precision == "fp32"
    grounding = found(experiment(tmp_path, "grounder=glip_t_a"))
    assert grounding.grounder is not None
    assert grounding.grounder.precision == precision


@pytest.mark.parametrize(
    ("written", "precision"), [("bf16", "bf16"), ("fp32", "fp32"), (None, "fp32")]
)
@pytest.mark.parametrize("native", [True, False])
def test_a_run_goes_on_in_the_precision_that_it_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Any, precision: str, native: bool
) -> None:
    """On another machine, too: half of its tasks would have been learned otherwise. Runs of earlier
    versions wrote nothing down: on a CPU it was float32.
    """
    has_bf16(monkeypatch, native)
    run = experiment(tmp_path)
    header = replace(HEAD, precision=written)
    AdapterFolder(RunDirectory.of(run).adapters).save_header(header)
    if written is None:
        file = tmp_path / "one" / "adapters" / HEADER
        values = json.loads(file.read_text())
        del values["precision"]
        file.write_text(json.dumps(values))
    assert found(run).backbone.precision == precision


def test_workers_of_unlike_machines_compute_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the gradient of a batch would depend on which of them had which sample."""
    run = experiment(tmp_path)
    has_bf16(monkeypatch, True)
    both = on_threads(2, lambda group: settled(run, RunDirectory.of(run), group))
    assert [one.backbone.precision for one in both] == ["bf16", "bf16"]
    monkeypatch.setattr(
        "system.stream.settled.auto_precision",
        lambda device: "bf16" if device.index == 0 else "fp32",
    )

    def on(group: Any) -> ExperimentConfig:
        unlike = replace(group, device=torch.device("cpu", 0) if group.leads else group.device)
        return settled(run, RunDirectory.of(run), unlike)

    assert [one.backbone.precision for one in on_threads(2, on)] == ["fp32", "fp32"]


def test_another_precision_than_the_run_s_is_refused() -> None:
    with pytest.raises(ConfigError, match="learned in precision=bf16, not fp32; set"):
        require_same_precision(replace(HEAD, precision="bf16"), "fp32")
    require_same_precision(replace(HEAD, precision="bf16"), "bf16")
    require_same_precision(HEAD, "fp32")


def claim(run: ExperimentConfig) -> None:
    RunDirectory.of(run).claim(run, {})


def test_a_run_that_goes_on_with_other_workers_has_the_same_batches(tmp_path: Path) -> None:
    """An epoch that goes on in another order would show some samples twice, and others never."""
    first = experiment(tmp_path, "cluster.workers=4")
    assert found(first).stage.micro_batches_for(4) == 4
    claim(first)
    for workers, pieces in ((0, 4), (2, 4), (3, 12), (8, 8)):
        again = experiment(tmp_path, f"cluster.workers={workers}")
        claim(again)
        assert found(again).stage.micro_batches_for(workers) == pieces
    claim(experiment(tmp_path, "cluster.workers=1", "stage.micro_batches=4"))
    with pytest.raises(ConfigError, match=r"stage\.micro_batches=2 \(was 'auto'\)"):
        claim(experiment(tmp_path, "stage.micro_batches=2"))


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Whose config.yaml has the former defaults, and lacks the keys that came since."""
    words = ("stage.micro_batches=2", "backbone.precision=auto")
    former = compose([f"storage_path={tmp_path}", "run_name=one", *words])
    claim(former)
    file = tmp_path / "one" / CONFIG
    _, *lines = file.read_text().splitlines(keepends=True)  # the seal comes first
    file.write_text("".join(line for line in lines if "check_every" not in line))
    now = compose([f"storage_path={tmp_path}", "run_name=one", "cluster.workers=0"])
    assert now.backbone.precision == "fp32"
    claim(now)
    assert found(now).stage.micro_batches == 2
    with pytest.raises(ConfigError, match=r"backbone\.precision='bf16' \(was 'auto'\)"):
        claim(compose([f"storage_path={tmp_path}", "run_name=one", "backbone.precision=bf16"]))
