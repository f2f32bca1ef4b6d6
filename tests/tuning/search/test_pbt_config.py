"""What a population cannot be of is said by name, before anything starts."""

import pytest

from system.errors import ConfigError
from tuning.search.sweep_plan import SweepPlan

SPACE = (
    "space:{method:{rank:{choice:[1,2]},task_start:{choice:[same,own]},"
    "layer_alignment:{weight:{loguniform:[0.01,1]}},task_contrast:{weight:{choice:[0.0,0.1]},"
    "threshold:{choice:[0.4],when:{method.task_contrast.weight:0.1}}}}}"
)
ALIGN, CONTRAST = "method.layer_alignment.weight", "method.task_contrast.weight"


def compose(pbt: str, more: str = "search:random") -> SweepPlan:
    return SweepPlan.compose([f"+tune={{{SPACE},scheduler:pbt,{more},pbt:{{{pbt}}}}}"])


def test_what_is_given_is_read() -> None:
    pbt = compose(f"keys:[{ALIGN}],every:2,share:0.5,factors:[0.5,2],resample:0").config.pbt
    assert (pbt.keys, pbt.every, pbt.share) == ((ALIGN,), 2, 0.5)
    assert (pbt.factors, pbt.resample) == ((0.5, 2.0), 0.0)


@pytest.mark.parametrize(
    ("pbt", "message"),
    [
        ("", r"scheduler=pbt has no pbt\.keys"),
        (
            "keys:[method.prompt_length]",
            r"pbt\.keys: method\.prompt_length is not in space; it has",
        ),
        ("keys:[method.task_start]", r"method\.task_start has values \['same', 'own'\]; only num"),
        (
            f"keys:[{CONTRAST}]",
            rf"{CONTRAST} changes on the way, and method\.task_contrast\.thresh",
        ),
        (f"keys:[{ALIGN},{ALIGN}]", r"tune\.pbt: keys=.* must name none twice"),
        (f"keys:[{ALIGN}],every:0", r"tune\.pbt: every=0 must be at least 1"),
        (f"keys:[{ALIGN}],share:0.6", r"tune\.pbt: share=0\.6 must be above 0 and at most 0\.5"),
        (f"keys:[{ALIGN}],share:0.0", r"tune\.pbt: share=0\.0"),
        (f"keys:[{ALIGN}],resample:1.5", r"tune\.pbt: resample=1\.5 must be from 0 to 1"),
        (f"keys:[{ALIGN}],factors:[]", r"tune\.pbt: factors=\[\] must be numbers above 0"),
        (f"keys:[{ALIGN}],factors:[-1]", r"tune\.pbt: factors=\[-1\.0\] must be numbers above 0"),
        (f"keys:[{ALIGN}],evry:1", r"unknown key tune\.pbt\.evry; did you mean tune\.pbt\.every"),
    ],
)
def test_a_mistake_names_its_field(pbt: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(pbt)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("search:optuna", r"scheduler=pbt has search=optuna; it takes search=random or grid"),
        ("search:random,seeds:[0,1]", r"scheduler=pbt has seeds=\[0, 1\]; it takes one"),
        ("search:random,methods:{lpi:[],maple:[]}", r"scheduler=pbt has 2 methods; it takes one"),
    ],
)
def test_what_a_population_cannot_be_of_is_refused(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(f"keys:[{ALIGN}]", more)


def test_one_of_several_methods_is_taken() -> None:
    made = compose(f"keys:[{ALIGN}]", "search:random,methods:{lpi:[],maple:[]},only:[lpi]")
    assert [base.label for base in made.bases] == ["lpi"]


def test_a_models_stage_has_no_population() -> None:
    tune = "+tune={space:{a:{choice:[1,2]}},search:random,scheduler:pbt,pbt:{keys:[a]}}"
    with pytest.raises(ConfigError, match=r"tune\.scheduler=pbt compares trials after each task"):
        SweepPlan.compose(["experiment=mask_vae", tune, "tune.metric=[held_out_iou]"])
