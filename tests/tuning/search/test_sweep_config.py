"""The section `tune`: what it says is done, and a mistake in it is one line before any trial."""

import pytest

from system.errors import ConfigError
from tuning.search.sweep_config import SweepMetric, TuneConfig
from tuning.search.sweep_plan import SweepPlan


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("{space:{method:{rnak:{grid:[1]}}}}", r"trial config 'lpi-000' of the sweep.*'rnak'"),
        ("{space:{stage:{epochs:{grid:[1,0]}}}}", r"trial config 'lpi-001' of the sweep.*epochs=0"),
        ("{space:{method:{choice:[lpi,lpy]}}}", r"trial config 'lpi-001'.*lpy"),
        ("{methods:{lpy:[]}}", r"trial config 'lpy'.*lpy"),
        (
            "{space:{a:{uniform:[0,1]}}}",
            r"tune: space\.a is a range, which a grid cannot",
        ),
        ("{space:{seed:{grid:[1]}}}", r"seeds are averaged: name them under tune\.seeds"),
        ("{space:{cluster:{workers:{grid:[1]}}}}", r"cluster\.workers is in space"),
        ("{space:{method:{choice:[lpi]}},methods:{lpi:[]}}", r"method is in space, and methods"),
        ("{search:random}", "search=random has an empty space"),
        ("{seeds:[]}", r"seeds=\[\] must name at least one"),
        ("{seeds:[0,-1]}", "seed=-1 must be from 0"),
        ("{seeds:[1,1]}", r"seeds=\[1, 1\].*none twice"),
        ("{samples:0}", "samples=0 must be at least 1"),
        ("{reduction:1}", "reduction=1 must be at least 2"),
        ("{max_concurrent:0}", "max_concurrent=0"),
        ("{trials_per_gpu:0}", "trials_per_gpu=0 must be from 1 to 100"),
        ("{metric:[accuracy]}", r"'accuracy' is not one of t2i_r1"),
        ("{metric:[rec_r1]}", "'rec_r1' is not one of t2i_r1.*objective=retrieval"),
        ("{scheduler:bohb}", r"scheduler='bohb' is not one of: none, asha, median, pbt"),
        ("{sampels:3}", r"unknown key tune\.sampels; did you mean tune\.samples\?"),
        ("{learning_rates:{default:[]}}", r"learning_rates\.default=\[\]"),
        ("{learning_rates:{default:[-1.0]}}", r"must be above 0"),
        ("{methods:{lpi:[]},only:[maple]}", r"'maple' is not among the methods"),
        (
            "{learning_rates:{default:[0.1]},"
            "space:{stage:{optimiser:{learning_rate:{grid:[0.1]}}}}}",
            "in both space and learning_rates",
        ),
        ("{fewer_parameters:true}", "search=grid and scheduler=none; it takes search=optuna"),
        (
            "{fewer_parameters:true,search:optuna,scheduler:asha,space:{a:{grid:[1]}}}",
            "search=optuna and scheduler=asha",
        ),
        ("{search:optuna,methods:{lpi:[],maple:[]},space:{a:{grid:[1]}}}", "one study"),
    ],
)
def test_a_mistake_is_found_before_the_first_trial(tune: str, message: str) -> None:
    def compose_all() -> None:
        sweep = SweepPlan.compose([f"+tune={tune}"])
        list(sweep.trials(sweep.trial_configs(sweep.bases)))

    with pytest.raises(ConfigError, match=message) as caught:
        compose_all()
    assert "\n" not in str(caught.value)


def test_an_option_of_the_sweep_that_its_yaml_leaves_out_can_be_given() -> None:
    """`experiment=compare` names no scheduler: a user must not have to know that."""
    sweep = SweepPlan.compose(["experiment=compare", "tune.scheduler=median"])
    assert sweep.config.scheduler == "median"
    with pytest.raises(ConfigError, match=r"unknown key tune\.sampels; did you mean"):
        SweepPlan.compose(["tune=lpi", "tune.sampels=3"])


def test_nothing_to_sweep_over() -> None:
    with pytest.raises(ConfigError, match="nothing to sweep over"):
        SweepPlan.compose([])


def test_a_method_has_its_own_rates_or_the_default() -> None:
    config = TuneConfig(learning_rates={"default": (0.1,), "lora": (0.001, 0.01)})
    assert config.rates_for("lora", "lora") == (0.001, 0.01)
    assert config.rates_for("lpi", "lpi") == (0.1,)
    assert config.rates_for("lora_deep", "lora") == (0.001, 0.01)  # a variant of it
    assert TuneConfig(learning_rates={"lora": (0.1,)}).rates_for("lpi", "lpi") == ()


def test_an_axis_and_a_time_of_scores_are_named_in_words() -> None:
    recall = SweepMetric("stream", "average recall", "%", 4)
    assert recall.heading == "Average recall"
    assert recall.axis(recall.after(4)) == "average recall at the end, %"
    assert recall.axis(recall.after(1)) == "average recall after 1 of 4 tasks, %"
    assert recall.text(34.5678) == "34.57 %"


def test_a_models_metric_keeps_its_key_and_has_no_unit() -> None:
    """A capital letter would make it another key."""
    iou = SweepMetric("model", "held_out_iou", "", 1)
    assert (iou.heading, iou.title, iou.text(0.123456)) == (
        "held_out_iou",
        "held_out_iou",
        "0.1235",
    )
