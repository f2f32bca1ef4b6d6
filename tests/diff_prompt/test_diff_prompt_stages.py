"""All three stages of Diff-Prompt by one command: what is not there is trained, once."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.data.shards.manifest import Manifest
from system.diff_prompt.latent_source import as_learned, latent_source, require_masks
from system.diff_prompt.prompt_generator.generator_files import save_generator
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.errors import AdapterMismatchError, ConfigError, DataError, StorageError
from system.objectives.objective import OBJECTIVES
from system.storage.files import Folder
from system.stream.preflight import check_experiment
from tests.diff_prompt.generator_parts import STAGE, VAE
from tests.diff_prompt.mask_files import prepare_shapes
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec

METHOD = {
    "name": "diff_prompt",
    "generator": STAGE,
    "prompt_length": 2,
    "depth": 2,
    "steps": 5,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diff_prompt")
    prepare_small_rec(root)
    return root


def experiment(root: Path, name: str, *more: str, **method: Any) -> ExperimentConfig:
    # Three test expressions of each task fill a block: none is drawn twice.
    sizes = ("cluster.workers=0", "stage.epochs=2", "evaluation.batch_size=3")
    run = compose(joined_overrides(root, name, *sizes, *more))
    return replace(run, method={**METHOD, **method})


@pytest.mark.ray
def test_one_command_runs_what_is_not_there_and_diffuses_once(root: Path, ray_local: None) -> None:
    """A second epoch or trial that ran the diffusion again would take many times as long."""
    shown = io.StringIO()
    carry_out(experiment(root, "first"), Console(file=shown, width=200))
    told = shown.getvalue()
    assert "runs/first-prompt_generator-mask_vae\n" in told
    assert (root / "runs" / "first-prompt_generator" / "report.html").exists()
    assert denoised(root, "first") == (24 + 6) * 5  # train and test, however many epochs
    again = io.StringIO()
    longer = experiment(root, "longer", "stage.epochs=3")
    carry_out(longer, Console(file=again, width=200))
    assert denoised(root, "longer") == 0
    assert "the model is there already" in again.getvalue()
    carry_out(experiment(root, "fresh", fresh_noise=True), Console(quiet=True))
    assert denoised(root, "fresh") == (2 * 24 + 6) * 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 9}, "layers"),
        ({"steps": 2}, "at least 3"),
        ({"steps": 8}, r"method\.steps=8 must divide .*schedule\.steps=20"),
        ({"generator": {**STAGE, "condition_dropout": 0.0}, "guidance": 2.0}, r"guidance=2\.0"),
        ({"generator": {**STAGE, "network": {"width": 64}}}, "width=128"),
        ({"generator": {**STAGE, "name": "alignment"}}, "generator|alignment"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_stage(
    root: Path, change: dict[str, Any], named: str
) -> None:
    """Hours of training would otherwise come before the error."""
    with pytest.raises(ConfigError, match=named):
        check_experiment(experiment(root, "wrong", **change))


def test_without_instance_prompts_no_generator_is_needed(root: Path) -> None:
    objective = OBJECTIVES.get("grounding")
    assert not objective.before(experiment(root, "global", specific=[]))
    (stage_2,) = objective.before(experiment(root, "full"))
    assert stage_2.stage["name"] == "prompt_generator"


def test_the_generator_is_that_of_the_tasks_which_are_joined(root: Path) -> None:
    """A separate stream's is that of all tasks, so that streams of any of them share it."""
    objective = OBJECTIVES.get("grounding")
    one = experiment(root, "one", "benchmark.tasks=[disk]")
    apart = replace(one, stream=replace(one.stream, joined=False))
    tasks = [objective.before(run)[0].benchmark.tasks for run in (one, apart)]
    assert tasks == [("disk",), None]


def test_another_benchmarks_generator_serves_this_one(root: Path) -> None:
    """As released, RefCOCO's generator makes Flickr30k's prompts; it must not be trained again."""
    prepare_shapes(root, name="other")
    objective = OBJECTIVES.get("grounding")
    lent = experiment(root, "lent", generator={**STAGE, "benchmark": "other"})
    (generator,) = objective.before(lent)
    assert generator.benchmark.name == "other"
    assert "benchmark" not in generator.stage
    own = replace(generator, run_name="alone", stage=dict(STAGE))
    assert GeneratorPlan.of(own).digest == GeneratorPlan.of(generator).digest
    (at_home,) = objective.before(experiment(root, "home", generator={**STAGE, "benchmark": None}))
    assert GeneratorPlan.of(at_home).digest != GeneratorPlan.of(generator).digest
    missing = experiment(root, "missing", generator={**STAGE, "benchmark": "nowhere"})
    with pytest.raises(DataError, match=r"'nowhere' is not prepared.*promptide prepare"):
        check_experiment(missing)


def test_adapters_take_their_own_generator_to_another_benchmark(root: Path) -> None:
    """They were learned from its latents; another one's would be noise to them."""
    prepare_shapes(root, name="other")
    method = experiment(root, "learned").method
    abroad = replace(experiment(root, "abroad"), cache_path=str(root / "cache"))
    for benchmark in ("other", "shapes"):
        source = latent_source(abroad, as_learned(method, benchmark))
        assert source is not None
        assert source.generator.benchmark.name == benchmark
        assert source.generator.cache_path == abroad.cache_path
    lent = {**method, "generator": {**STAGE, "benchmark": "other"}}
    assert as_learned(lent, "shapes") == lent
    assert as_learned({"name": "coop"}, "shapes") == {"name": "coop"}


def test_a_given_generator_is_not_trained_and_has_to_be_what_the_settings_say(
    root: Path, tmp_path: Path
) -> None:
    """Days of training are saved, and no result is ascribed to other settings than its own."""
    objective = OBJECTIVES.get("grounding")
    run = experiment(root, "trained")
    (generator,) = objective.before(run)
    plan = GeneratorPlan.of(generator)
    given = Folder.of(tmp_path / "given")
    save_generator(given, MaskDiT(plan.network, seed=0), plan.header(24, ()))
    lent = experiment(root, "lent", generator={**STAGE, "path": given.uri})
    assert not objective.before(lent)
    assert GeneratorPlan.of(replace(generator, stage={**STAGE, "path": given.uri})).digest == (
        plan.digest
    )
    run_directory = Folder.of(tmp_path / "run")
    run_directory.write_json("metrics.json", {"stage": "prompt_generator", "digest": plan.digest})
    save_generator(plan.folder, MaskDiT(plan.network, seed=0), plan.header(24, ()))
    by_run = replace(generator, stage={**STAGE, "path": run_directory.uri})
    assert GeneratorPlan.of(by_run).folder.uri == plan.folder.uri
    run_directory.write_json("metrics.json", {"stage": "mask_vae", "digest": "d"})
    with pytest.raises(ConfigError, match="is no run of stage=prompt_generator"):
        GeneratorPlan.of(by_run)
    wrong = {**STAGE, "path": given.uri, "latents": "sample_unscaled"}
    wrong["network"] = {**STAGE["network"], "depth": 2}  # type: ignore[dict-item]
    says = r"network\.depth=1 \(not 2\).*latents=mode_scaled \(not sample_unscaled\)"
    with pytest.raises(AdapterMismatchError, match=says):
        check_experiment(experiment(root, "wrong", generator=wrong))
    other = {**STAGE, "path": given.uri, "mask_vae": {**VAE, "epochs": 3}}
    with pytest.raises(AdapterMismatchError, match="the digest of mask_vae"):
        check_experiment(experiment(root, "other", generator=other))
    header = given.read_json("generator.json")
    given.write_json("generator.json", {**header, "backbone_fingerprint": "another"})
    with pytest.raises(AdapterMismatchError, match=r"fingerprint of encoder\.path"):
        check_experiment(lent)
    with pytest.raises(StorageError, match=r"holds no generator\.json"):
        check_experiment(experiment(root, "no", generator={**STAGE, "path": str(tmp_path)}))


@pytest.mark.parametrize("source", ["true", "shuffled"])
def test_a_source_that_reads_masks_or_others_needs_them_in_every_split(
    root: Path, tmp_path: Path, source: str
) -> None:
    """Found at the first evaluation, it would come hours later."""
    check_experiment(experiment(root, "there", mask_source=source))
    bare = tmp_path / "bare"
    prepare_small_rec(bare)
    prepare_shapes(bare / "empty", bare=True)
    method = experiment(root, "there", mask_source=source).method
    handle = Manifest.load(str(bare / "empty" / "shapes")).task("disk").handle("test")
    with pytest.raises(DataError, match=f"mask_source={source}.*'disk'.*split 'test'"):
        require_masks(method, handle)
    if source == "true":  # as a command line or a YAML has it, without quotes
        with pytest.raises(DataError, match=r"mask_source=true.*'disk'.*split 'test'"):
            require_masks({**method, "mask_source": True}, handle)


@pytest.mark.ray
def test_a_run_says_where_its_masks_came_from(root: Path, ray_local: None) -> None:
    """A value that knows the answer must not be read as a result."""
    carry_out(experiment(root, "bound", mask_source="true"), Console(quiet=True))
    metrics = json.loads((root / "runs" / "bound" / "metrics.json").read_text())
    assert metrics["mask_source"]["name"] == "true"
    assert "upper bound" in metrics["mask_source"]["note"]
    assert metrics["denoising_steps"] == 0
    assert "an upper bound, not a result" in (root / "runs" / "bound" / "report.html").read_text()
    assert not (root / "runs" / "bound-prompt_generator").exists()


@pytest.mark.ray
def test_the_regressor_is_trained_before_the_stream_and_judged_as_the_generator(
    root: Path, ray_local: None
) -> None:
    carry_out(experiment(root, "said", mask_source="regressed"), Console(quiet=True))
    stage_2 = root / "runs" / "said-prompt_generator-mask_regressor"
    metrics = json.loads((stage_2 / "metrics.json").read_text())
    assert set(metrics["iou"]) == {"sampled", "random_caption", "mean_mask", "reconstruction"}
    assert metrics["generator"]["schedule"] is None
    assert "none: one latent by regression" in (stage_2 / "report.html").read_text()


def denoised(root: Path, name: str) -> int:
    """Denoising steps that a run's last start ran, each for one sample."""
    metrics = json.loads((root / "runs" / name / "metrics.json").read_text())
    steps: int = metrics["denoising_steps"]
    return steps
