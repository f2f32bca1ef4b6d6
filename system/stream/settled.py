"""What the config's autos stand for in one run: what they come to as it begins holds to its end.

A run may go on on other machines and with other workers. The first worker group writes into the
adapters' header what its frozen model computed in, and config.yaml says how many workers it had.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from system.config.precision import AUTO, Arithmetic, auto_precision, former_precision
from system.config.schema import ExperimentConfig
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.storage.adapters import HEADER, AdapterFolder, AdapterHeader
from system.storage.run_directory import RunDirectory, micro_batches_of


def settled(
    experiment: ExperimentConfig, directory: RunDirectory, group: WorkerGroup
) -> ExperimentConfig:
    """The experiment with what its autos stand for; every rank has to call this.

    The precision is that of the run's header where there is one; else bf16 if the devices of all
    workers have it natively.
    """
    header, pieces = group.broadcast(_began_with(directory) if group.leads else None)
    stage = experiment.stage
    if stage.micro_batches == "auto":
        experiment = replace(experiment, stage=replace(stage, micro_batches=pieces or group.size))
    if header is not None:
        return with_precision(experiment, precision_of(header, group.device))
    native = auto_precision(group.device) == "bf16"
    everywhere = bool(group.gather_rows(torch.tensor([native])).all())
    return with_precision(experiment, "bf16" if everywhere else "fp32")


def _began_with(directory: RunDirectory) -> tuple[AdapterHeader | None, int | None]:
    """The header of the run's adapters, and its micro-batches, as far as it has begun."""
    adapters = AdapterFolder(directory.adapters)
    header = adapters.header() if adapters.folder.exists(HEADER) else None
    return header, micro_batches_of(directory.config()) if directory.begun else None


def precision_of(header: AdapterHeader, device: torch.device) -> Arithmetic:
    """What auto stands for in a run with this header."""
    return header.precision or former_precision(device.type)


def with_precision(experiment: ExperimentConfig, precision: Arithmetic) -> ExperimentConfig:
    """The experiment with the arithmetic of its frozen models where they say auto."""
    backbone, grounder = experiment.backbone, experiment.grounder
    if backbone.precision == AUTO:
        backbone = replace(backbone, precision=precision)
    if grounder is not None and grounder.precision == AUTO:
        grounder = replace(grounder, precision=precision)
    return replace(experiment, backbone=backbone, grounder=grounder)


def require_same_precision(header: AdapterHeader, precision: Arithmetic) -> None:
    """Raises ConfigError when a run would go on in another precision than it began in."""
    if header.precision not in (None, precision):
        raise ConfigError(
            f"the run's tasks were learned in precision={header.precision}, not {precision}; set "
            "that, or precision=auto, for its backbone or grounder"
        )
