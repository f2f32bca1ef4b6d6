"""A sweep's trial configs become whole experiments, and a wrong one is found before any trial."""

from pathlib import Path
from typing import Any

import pytest

from system.backbones.dual_encoder import load_backbone
from system.config.compose import CONFIG_DIRECTORY
from system.config.overrides import override
from system.config.parse import parse_dataclass
from system.config.schema import ExperimentConfig
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import ConfigError
from system.grounders.grounder import load_grounder
from system.loggers.mlflow import store
from system.methods.base import GroundingSetting, RetrievalSetting, methods_on
from system.methods.sharing import build_method, method_kind
from system.stream.task_order import ORDER_POLICIES
from tuning.run.learning_rates import LEARNING_RATES
from tuning.search.sweep_plan import TRIALS, SweepPlan, Trial, TrialConfig

SPACE = "+tune={space:{method:{rank:{grid:[1,2]}}},seeds:[3,4]}"


def plan(*overrides: str) -> SweepPlan:
    return SweepPlan.compose(["run_name=s", *overrides])


def stream(trial: Trial) -> ExperimentConfig:
    assert isinstance(trial.experiment, ExperimentConfig)
    return trial.experiment


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "k=3"),
        (0.5, "k=0.5"),
        (None, "k=null"),
        (True, "k=true"),
        ("lpi", "k=lpi"),
        ("a b", 'k="a b"'),
        ("3", 'k="3"'),
        (["food", "animal"], "k=[food,animal]"),
    ],
)
def test_values_are_written_as_hydra_reads_them(value: object, text: str) -> None:
    assert override("k", value) == text


def test_every_kind_of_value_reaches_the_experiment() -> None:
    """A value that Hydra reads otherwise would be reported under a wrong name."""
    config = TrialConfig(
        "x",
        (
            override("benchmark.tasks", ["food", "animal"]),
            override("method.text_prompt_length", None),
            override("method.layer_alignment.similarity", "dot"),
            override("stage.optimiser.learning_rate", 1e-05),
        ),
    )
    experiment = stream(plan(SPACE).trial(config, 0))
    assert experiment.benchmark.tasks == ("food", "animal")
    assert experiment.method["text_prompt_length"] is None
    assert experiment.method["layer_alignment"]["similarity"] == "dot"
    assert experiment.stage.optimiser.learning_rate == 1e-05


def test_each_trial_has_its_own_directory_under_the_sweeps(tmp_path: Path) -> None:
    places = (f"storage_path={tmp_path}", f"cache_path={tmp_path / 'cache'}")
    sweep = plan(SPACE, *places, "cluster.workers=0")
    trials = list(sweep.trials(sweep.trial_configs(sweep.bases)))
    assert [trial.name for trial in trials] == [
        "s-lpi-000-seed3",
        "s-lpi-001-seed3",
        "s-lpi-000-seed4",
        "s-lpi-001-seed4",
    ]
    first = stream(trials[0])
    assert first.storage_path == str(tmp_path / "s" / "trials")
    assert first.cache_path == str(tmp_path / "cache")  # one for all of them
    assert (first.seed, first.method["rank"], first.cluster.workers) == (3, 1, 0)
    assert "tune" not in first.to_dict()


@pytest.mark.parametrize("folder", [TRIALS, LEARNING_RATES])
def test_mlflow_keeps_its_file_where_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = plan(SPACE, f"storage_path={tmp_path}", "run_name=s")
    experiment = sweep.trial(sweep.bases[0], 3, folder).experiment
    assert store(experiment) == f"sqlite:///{tmp_path}/s/{folder}/mlflow.db"


def test_methods_are_named_by_their_label() -> None:
    """`lpi: [...]` is the method; two variants of one method have names of their own."""
    sweep = plan("+tune={methods:{maple:[],lpi_small:['method=lpi','method.rank=1']},seeds:[0]}")
    maple, small = (stream(trial) for trial in sweep.trials(sweep.bases))
    assert (maple.method["name"], small.method["name"], small.method["rank"]) == ("maple", "lpi", 1)


def test_only_some_methods_on_request() -> None:
    sweep = plan("+tune={methods:{maple:[],lpi:[]},only:[lpi]}")
    assert [base.label for base in sweep.bases] == ["lpi"]


SWEEPS = sorted(f"tune={path.stem}" for path in (CONFIG_DIRECTORY / "tune").glob("*.yaml"))
LISTED_SWEEPS = ["experiment=compare", "experiment=rec_stream_compare", *SWEEPS]


@pytest.mark.parametrize("sweep", LISTED_SWEEPS)
def test_every_trial_of_a_shipped_sweep_can_be_built(sweep: str) -> None:
    """A typing error in the last trial config must not wait until the others have run."""
    composed = SweepPlan.compose([sweep])
    configs = composed.trial_configs(composed.bases)
    assert len({config.label for config in configs}) == len(configs)
    own = composed.experiment
    shape = load_backbone(own.backbone).shape if isinstance(own, ExperimentConfig) else None
    for config in configs:
        experiment = composed.trial(config, composed.config.seeds[0]).experiment
        for key, value in config.values.items():
            assert _at(experiment.to_dict(), key) == value, f"{config.label}: {key}"
        if isinstance(experiment, ExperimentConfig) and experiment.stage.objective == "grounding":
            _build_on_grounder(experiment)
        elif isinstance(experiment, ExperimentConfig):
            assert shape is not None
            sizes = RetrievalSetting(shape, experiment.seed)
            build_method(experiment.method, sizes)


def _build_on_grounder(experiment: ExperimentConfig) -> None:
    """As a run's check does once the benchmark is there, which names the Mask-VAE's data."""
    assert experiment.grounder is not None
    vae = experiment.method.get("generator", {}).get("mask_vae", {}).get("vae")
    sizes = MaskVaeConfig() if vae is None else parse_dataclass(MaskVaeConfig, vae, "vae")
    masks = MaskDecoder(sizes, "d", lambda: (build_mask_vae(sizes, seed=0), 0.5))
    shape = load_grounder(experiment.grounder).shape
    build_method(experiment.method, GroundingSetting(shape, experiment.seed, masks=masks))


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("rank", "method.rank", [1, 2, 4, 8, 16]),
        ("prompt_depth", "method.prompt_depth", [1, 2, 3, 4]),
        ("order", "benchmark.order", list(ORDER_POLICIES)),
    ],
)
def test_an_ablation_varies_one_thing_with_several_seeds(
    name: str, key: str, values: list[Any]
) -> None:
    """Two things that change together say nothing about either."""
    composed = SweepPlan.compose([f"tune=ablation_{name}"])
    configs = composed.trial_configs(composed.bases)
    assert [config.values for config in configs] == [{key: value} for value in values]
    assert len(composed.config.seeds) > 1
    assert composed.experiment.run_name == f"ablation-{name.replace('_', '-')}"


def test_each_source_of_similarity_is_tried_centred_and_as_it_is() -> None:
    composed = SweepPlan.compose(["tune=ablation_similarity"])
    pairs = [tuple(config.values.values()) for config in composed.trial_configs(composed.bases)]
    sources = ("captions", "names", "images")
    assert pairs == [(source, centre) for source in sources for centre in (True, False)]


def test_interaction_is_off_once_and_on_with_each_rank() -> None:
    composed = SweepPlan.compose(["tune=ablation_interaction"])
    values = [config.values for config in composed.trial_configs(composed.bases)]
    assert [v.get("method.interaction.rank") for v in values] == [None, 1, 2, 4, 8]
    assert [v["method.interaction.depth"] for v in values] == [0, None, None, None, None]


def test_losses_are_switched_off_one_by_one() -> None:
    composed = SweepPlan.compose(["tune=ablation_losses"])
    pairs = [tuple(config.values.values()) for config in composed.trial_configs(composed.bases)]
    assert pairs == [(0.1, 0.1), (0.1, 0.0), (0.0, 0.1), (0.0, 0.0)]


def test_the_comparison_on_boxes_names_every_method_that_can_learn_them() -> None:
    """But Diff-Prompt alone, which is within the join here."""
    rows = rows_of("rec_stream_compare")
    assert {name for name, _ in rows.values()} == set(methods_on("grounding")) - {"diff_prompt"}


def rows_of(experiment: str) -> dict[str, tuple[str, str]]:
    """Each row's method and how it is learned."""
    sweep = SweepPlan.compose([f"experiment={experiment}"])
    rows: dict[str, tuple[str, str]] = {}
    for base in sweep.bases:
        trial = stream(sweep.trial(base, 0))
        section = trial.method
        grounds = trial.stage.objective == "grounding"
        kind = method_kind(section, "grounding" if grounds else "retrieval")
        rows[base.label] = (section["name"], kind.sharing)
        assert sweep.config.rates_for(base.label, section["name"])
        assert trial.stage.gradient_norm == 1.0, "the same for every method"
    return rows


@pytest.mark.parametrize("experiment", ["compare", "rec_stream_compare"])
def test_a_row_s_name_says_how_its_method_is_learned(experiment: str) -> None:
    """A table in which isolated methods stand beside shared ones must say which is which."""
    rows = rows_of(experiment)
    for label, (name, sharing) in rows.items():
        if label.endswith(("_own", "_shared")):
            assert label == f"{name}_{sharing}"
    both = {name for name, sharing in rows.values() if sharing == "own"}
    both &= {name for name, sharing in rows.values() if sharing == "shared"}
    assert {"lpi", "s_prompts", "maple"} <= both


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune=lpi", "seed=3"], r"seed is given, but .* tune\.seeds"),
        (["tune=lpi", "method.rank=2"], r"method\.rank is given, but .*tune\.space\.method\.rank"),
        (["experiment=compare", "method=lpi"], r"method is given, but .* tune\.only"),
        (
            ["experiment=compare", "stage.optimiser.learning_rate=1"],
            r"learning_rate is given, but .*~tune\.learning_rates",
        ),
    ],
)
def test_what_the_sweep_would_overrule_is_refused(overrides: list[str], message: str) -> None:
    """A user who fixed the rank must not get scores of another one."""
    with pytest.raises(ConfigError, match=message):
        SweepPlan.compose(overrides)


def test_a_rate_can_be_fixed_for_all_methods() -> None:
    """As the error above says."""
    fixed = "stage.optimiser.learning_rate=0.5"
    sweep = SweepPlan.compose(["experiment=compare", "~tune.learning_rates", fixed])
    assert stream(sweep.trial(sweep.bases[-1], 0)).stage.optimiser.learning_rate == 0.5


def test_the_comparison_names_every_registered_method() -> None:
    """A method that is added must not be missing from the comparison unnoticed."""
    rows = rows_of("compare")
    left_out = {"fine_tune_per_task"}  # a ceiling by itself, see experiment=ceiling
    assert {name for name, _ in rows.values()} == set(methods_on("retrieval")) - left_out


def test_the_comparison_isolates_everybody_and_nobody() -> None:
    """LPI above MaPLe compares isolation with none, unless both stand there both ways."""
    rows = rows_of("compare").values()
    for name in ("lora", "l2p", "maple", "dcp", "s_prompts", "lpi"):
        assert {(name, "own"), (name, "shared")} <= set(rows), name
