"""Overrides become one frozen config; whatever is wrong with them is one line naming the field."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from system.backbones.computation import Computation
from system.backbones.dual_encoder import SHIPPED, resolved
from system.config.compose import (
    CONFIG_DIRECTORY,
    STREAM,
    compose,
    composed_values,
    experiment_of,
    stage_name,
)
from system.config.schema import ExperimentConfig
from system.engine.model_stage import ModelExperiment, model_experiment
from system.errors import ConfigError, DataError
from system.methods.base import METHODS, method_class
from system.storage.data_directory import DataDirectory
from system.submission.config import compose_submission

EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIRECTORY / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIG_DIRECTORY.glob("*/*.yaml")
    # submit's begin from a config of their own, and those of released belong to a protocol
    if path.parent.name not in ("experiment", "submit", "released")
)
SUBMISSIONS = sorted(path.stem for path in (CONFIG_DIRECTORY / "submit").glob("*.yaml"))


@pytest.fixture(scope="module")
def default() -> ExperimentConfig:
    return compose([])


def test_there_are_experiments_to_check() -> None:
    assert "demo" in EXPERIMENTS


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    """A shipped experiment that fails at start is the first thing a new user meets."""
    config = _composed(f"experiment={experiment}")
    assert config.run_name
    if isinstance(config, ModelExperiment):
        assert model_experiment(composed_values([f"experiment={experiment}"])).stage == config.stage
        return
    section = {key: value for key, value in config.method.items() if key != "name"}
    name = config.method["name"]
    assert method_class(name, "grounding" if config.stage.objective == "grounding" else "retrieval")
    known = METHODS.get(name).config
    assert set(section) <= {field.name for field in dataclasses.fields(known)}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option: str) -> None:
    _composed(option)


@pytest.mark.parametrize("target", SUBMISSIONS)
def test_every_target_of_a_submission_composes(target: str) -> None:
    assert compose_submission([f"submit={target}"])


def _composed(override: str) -> ExperimentConfig | ModelExperiment:
    values = composed_values([override])
    is_model = stage_name(values) != STREAM
    return ModelExperiment.from_values(values) if is_model else experiment_of(values)


def test_overrides_reach_their_fields() -> None:
    config = compose(
        ["seed=3", "method.rank=2", "stage.optimiser.name=adam", "benchmark.tasks=[food,animal]"]
    )
    assert (config.seed, config.method["rank"], config.stage.optimiser.name) == (3, 2, "adam")
    assert config.benchmark.tasks == ("food", "animal")


def test_a_model_s_stage_has_no_order_of_tasks() -> None:
    """It reads all tasks at once: the override would do nothing."""
    values = composed_values(["experiment=mask_vae", "benchmark.order=reversed"])
    with pytest.raises(ConfigError, match=r"benchmark\.order=reversed is for streams"):
        ModelExperiment.from_values(values)


def test_run_name_follows_what_it_is_made_of() -> None:
    """Or two seeds would share one run directory."""
    names = {compose(overrides).run_name for overrides in ([], ["seed=1"], ["benchmark.name=b"])}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage.epoch=3"],
            r"unknown key config\.stage\.epoch; did you mean config\.stage\.epochs\?",
        ),
        (["seeds=3", "stages.a=1"], r"unknown key config\.seeds; did you mean config\.seed\?"),
        (["method.rnak=3"], r"'method\.rnak'.*'rnak'"),
        (["method=lpy"], r"method/lpy.*lpi"),
        (["methods=lpi"], "methods"),
        (["experiment=nothing"], "experiment/nothing"),
        (["stage.epochs=many"], r"stage\.epochs='many' must be of type int"),
        (["stage.epochs=0"], r"stage: epochs=0 must be at least 1"),
        (["stage.micro_batches=0"], r"micro_batches=0 must be at least 1"),
        (["stage.optimiser.name=rmsprop"], r"stage\.optimiser\.name='rmsprop'.*sgd, adam"),
        (["stage.optimiser.learning_rate=-1"], r"learning_rate=-1.0 must be above 0"),
        (["+stage.extra=1"], r"unknown key config\.stage\.extra"),
        (["~stage.epochs"], r"stage\.epochs is missing"),
        (["protocol=strict"], r"protocol='strict' is not one of: corrected, released"),
        (["evaluation.gallery=none"], r"evaluation\.gallery='none'"),
        (
            ["backbone.precision=fp16"],
            r"backbone\.precision='fp16' is not one of: auto, fp32, bf16",
        ),
        (["backbone.compile=2"], r"backbone\.compile=2 must be of type bool"),
        (["evaluation.batch_size=0"], r"evaluation: batch_size=0"),
        (["seed=-1"], r"seed=-1 must be from 0"),
        (["seed=null"], r"seed is not set; add seed=VALUE"),
        (["cluster.workers=-1"], r"cluster: workers=-1"),
        (["cluster.cpus_per_worker=0"], r"cluster: cpus_per_worker=0"),
        (["cluster.max_failures=-2"], r"cluster: max_failures=-2"),
        (["cluster.stall_seconds=5"], r"cluster: stall_seconds=5 must be at least 10"),
        (["cluster.collective_timeout=20"], r"cluster: collective_timeout=20 must be at least 60"),
        (["stage.batch_size=63"], r"stage\.batch_size=63 .* 2 equal.*a multiple of 2"),
        (["cluster.workers=3", "stage.batch_size=64"], r"stage\.batch_size=64 .*a multiple of 3"),
        (
            ["cluster.workers=3", "stage.micro_batches=2", "stage.batch_size=9"],
            r"stage\.batch_size=9 .*a multiple of 6",
        ),
        (["stage.micro_batches=many"], r"micro_batches='many' .*takes an int or auto"),
        (["stage.check_every=0"], r"check_every=0 must be at least 1"),
        (["run_name=a/b"], r"run_name='a/b' must be a plain folder name"),
        (["run_name=.."], r"run_name='\.\.' must be"),
        (["run_name=''"], r"run_name='' must be"),
        (["run_name=${nothing}"], "nothing"),
        (["~method.name"], r"method\.name|missing"),
        (["method.name=3", "run_name=a"], r"method\.name"),
        (["demo"], r"'demo' is no override; write key=value"),
        (["=3"], r"'=3' is no override"),
        (["method=3"], "group override must be a string"),
        (["seed=[1"], r"seed=\[1"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


def test_a_resolved_config_composes_to_the_same_experiment(tmp_path: Path) -> None:
    """Else a sweep's best.yaml, run again, would be another experiment."""
    config = compose(["experiment=demo", "seed=7", "benchmark.tasks=[food,animal]"])
    file = tmp_path / "best.yaml"
    file.write_text(json.dumps(config.to_dict()))  # JSON is YAML
    assert compose([], str(file)) == config
    changed = compose(["seed=8", "stage.optimiser.learning_rate=1e-3"], str(file))
    assert (changed.seed, changed.stage.optimiser.learning_rate) == (8, 1e-3)


@pytest.mark.parametrize(
    ("overrides", "content", "message"),
    [
        (["method=lpi"], "seed: 1", r"method=lpi: with --config the groups are chosen already"),
        (["~seed"], "seed: 1", "nothing can be removed"),
        (["seed"], "seed: 1", "'seed' is no override"),
        (["stage.epoch=3"], "stage: {epochs: 1}", "missing|epoch"),
        ([], "sead: 1", r"unknown key config\.sead; did you mean config\.seed"),
        ([], "- 1", "holds no config"),
        ([], "a: [", "cannot be read"),
        ([], None, "cannot be read"),
    ],
)
def test_a_config_file_that_cannot_be_used(
    tmp_path: Path, overrides: list[str], content: str | None, message: str
) -> None:
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        compose(overrides, str(file))


def test_a_failed_composition_leaves_the_next_one_alone() -> None:
    """Hydra keeps global state: a notebook that mistyped once must not need a restart."""
    with pytest.raises(ConfigError):
        compose(["method=lpy"])
    assert compose(["seed=4"]).seed == 4


def test_dict_round_trip(default: ExperimentConfig) -> None:
    """The dict goes to Ray workers and through JSON: a worker must train the same config."""
    config = dataclasses.replace(
        default, benchmark=dataclasses.replace(default.benchmark, tasks=("b", "a"))
    )
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    assert ExperimentConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("workers", "pieces"), [(0, 4), (1, 4), (2, 4), (3, 12), (4, 4), (6, 12), (8, 8)]
)
def test_workers_share_the_micro_batches_equally(
    default: ExperimentConfig, workers: int, pieces: int
) -> None:
    """Unequal shares would weigh one worker's images more than another's."""
    stage = dataclasses.replace(default.stage, micro_batches=4)
    assert stage.micro_batches_for(workers) == pieces


@pytest.mark.parametrize(("workers", "pieces"), [(0, 1), (1, 1), (2, 2), (8, 8)])
def test_by_default_each_worker_has_one_micro_batch(workers: int, pieces: int) -> None:
    """Two forward passes of half the size leave a GPU idle between them."""
    stage = compose([f"cluster.workers={workers}"]).stage
    assert stage.micro_batches == "auto"
    assert stage.micro_batches_for(workers) == pieces


@pytest.mark.parametrize(
    ("count", "workers", "batch"),
    [(64, 0, 64), (65, 0, 64), (63, 0, 60), (17, 1, 16), (4, 2, 4), (17, 3, 12), (7, 4, 4)],
)
def test_a_small_task_has_the_largest_batch_that_its_micro_batches_share(
    default: ExperimentConfig, count: int, workers: int, batch: int
) -> None:
    """The number of workers may not matter where it divides them, and no epoch is without steps."""
    stage = dataclasses.replace(default.stage, micro_batches=4)
    assert stage.batch_for("food", count, workers, of="images") == batch


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({}, 1, r"'food' has 1 training images, fewer than the 2 of the smallest batch"),
        ({"micro_batches": 1}, 1, r"'food' has 1 training images, fewer than the 2 of"),
        ({"micro_batches": 16}, 15, r"fewer than the 16 .*micro_batches=16"),
        (
            {"small_tasks": "stop", "micro_batches": 2},
            63,
            r"the batch of 64: lower stage\.batch_size to 62, or .*shrink",
        ),
        ({}, 0, r"'food' has 0 training images"),
    ],
)
def test_a_task_that_is_too_small_is_named(
    default: ExperimentConfig, changes: dict[str, Any], count: int, message: str
) -> None:
    stage = dataclasses.replace(default.stage, **changes)
    with pytest.raises(DataError, match=message):
        stage.batch_for("food", count, 0, of="images", least=2)


def test_a_batch_that_somebody_asked_for_is_not_shrunk(tmp_path: Path) -> None:
    """A result with another batch than the one that was typed would be reported under its name."""
    assert compose(["experiment=rec"]).stage.small_tasks == "shrink"
    assert compose(["stage.batch_size=8"]).stage.small_tasks == "stop"
    both = ["stage.batch_size=8", "stage.small_tasks=shrink"]
    assert compose(both).stage.small_tasks == "shrink"
    file = tmp_path / "config.yaml"
    values = compose(both).to_dict()
    file.write_text(json.dumps(values))
    assert compose([], str(file)).stage.small_tasks == "shrink"
    assert compose(["stage.batch_size=4"], str(file)).stage.small_tasks == "stop"
    del values["stage"]["small_tasks"]  # of an earlier version, or written by hand
    file.write_text(json.dumps(values))
    assert compose([], str(file)).stage.small_tasks == "stop"
    assert (
        "small_tasks" not in composed_values(["experiment=mask_vae", "stage.batch_size=8"])["stage"]
    )


def test_folders_lie_under_the_data_path(default: ExperimentConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(default, data_path=str(tmp_path))
    place = DataDirectory.of(config).benchmark(config.benchmark.name)
    assert place.path == f"{tmp_path}/{config.benchmark.name}"
    assert DataDirectory.of(config).store("features").path == f"{tmp_path}/features"


def test_a_grounder_s_files_are_found_wherever_a_worker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray worker has another working directory; a hub id is no path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glip.pth").touch()
    (tmp_path / "bert").mkdir()
    words = ["grounder=glip_t_a", "grounder.path=glip.pth", "grounder.tokenizer=bert"]
    grounder = compose(words).grounder
    assert grounder is not None
    assert grounder.path == str(tmp_path / "glip.pth")
    assert grounder.tokenizer == str(tmp_path / "bert")
    grounder = compose([*words[:2], "grounder.tokenizer=bert-base-uncased"]).grounder
    assert grounder is not None
    assert grounder.tokenizer == "bert-base-uncased"


def test_shipped_backbones_are_found_wherever_the_command_runs(default: ExperimentConfig) -> None:
    backbone = dataclasses.replace(default.backbone, path="shipped:tiny_clip")
    assert resolved(backbone.path) == str(SHIPPED / "tiny_clip")
    assert resolved("org/model") == "org/model"


@pytest.mark.parametrize("option", ["clip", "siglip", "siglip2", "tiny_clip"])
def test_every_backbone_takes_the_settings_of_how_it_computes(option: str) -> None:
    """A setting that is read and not passed on would be a switch without a wire."""
    settings = ["precision=bf16", "gradient_checkpointing=true", "compile=true"]
    settings.append("text_padding=longest")
    overrides = [f"backbone={option}", *(f"backbone.{setting}" for setting in settings)]
    assert Computation.of(compose(overrides).backbone) == Computation("bf16", True, True, "longest")
    plain = Computation.of(compose([f"backbone={option}"]).backbone)
    # Where trimming changes nothing but the work, it is what new runs do.
    assert plain.text_padding == ("context" if option.startswith("siglip") else "longest")
    default = Computation("fp32" if option.startswith("tiny") else "auto")
    assert dataclasses.replace(plain, text_padding="context") == default


def test_a_config_of_before_text_padding_pads_to_the_context(default: ExperimentConfig) -> None:
    """A run that goes on with another rounding would not be the run that was begun."""
    values = default.to_dict()
    del values["backbone"]["text_padding"]
    completed = default.completed(values)
    assert completed["backbone"]["text_padding"] == "context"
