"""`protocol=released` would be taken in part, or claim what no code does, without these."""

from typing import Any

import pytest
import torch

from system.config.compose import compose, composed_values
from system.config.protocol import DIRECTORY, former_settings, released_settings
from system.config.schema import InputConfig
from system.errors import ConfigError
from system.storage.adapters import AdapterFolder, AdapterHeader
from system.storage.files import Folder

FILES = sorted(path.stem.partition("_") for path in DIRECTORY.glob("*_*.yaml"))
METHODS = [name for objective, _, name in FILES if objective == "retrieval"]
ON_GROUNDERS = [name for objective, _, name in FILES if objective == "grounding"]
RECIPES = {"lpi": "lpi_rec_released", "diff_prompt": "diff_prompt_released"}


def at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_a_released_method_takes_effect(method: str) -> None:
    values = composed_values([f"method={method}", "protocol=released"])
    settings = released_settings(values)
    assert settings
    for key, value in settings.items():
        assert at(values, key) == value, key
    experiment = compose([f"method={method}", "protocol=released"])
    assert (experiment.protocol, experiment.evaluation.gallery) == ("released", "seen")
    assert experiment.inputs.text("a dog") == "a dog."


@pytest.mark.parametrize("method", ON_GROUNDERS)
def test_every_setting_of_a_released_method_on_a_grounder_takes_effect(method: str) -> None:
    values = composed_values([f"experiment={RECIPES[method]}"])
    for key, value in released_settings(values).items():
        assert at(values, key) == value, key
    experiment = compose([f"experiment={RECIPES[method]}"])
    assert experiment.stage.gradient_norm == 1.0
    with pytest.raises(ConfigError, match=r"stage\.batch_size=8"):
        compose([f"experiment={RECIPES[method]}", "stage.batch_size=8"])


def test_lpi_s_released_recipe() -> None:
    """The figures of its code: each of them changes what is learned."""
    experiment = compose(["protocol=released", "experiment=demo"])
    stage, method = experiment.stage, experiment.method
    optimiser = stage.optimiser
    assert (optimiser.name, optimiser.learning_rate, optimiser.weight_decay) == ("sgd", 0.05, 2e-4)
    assert (stage.epochs, stage.batch_size, stage.schedule) == (10, 64, "cosine_epochs")
    assert (stage.epoch_over, stage.augmentation) == ("captions", "crop_flip")
    assert (method["rank"], method["prompt_length"], method["constructed_depth"]) == (4, 16, 9)
    assert (method["prompt_depth"], method["task_start"], method["init_seed"]) == (1, "own", 1)
    assert method["task_contrast"]["temperature"] == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.epochs=1", r"stage\.epochs=1: protocol=released has stage\.epochs=10"),
        ("method.rank=8", r"method\.rank=8: protocol=released has method\.rank=4"),
        ("evaluation.gallery=all", r"evaluation\.gallery=all.*say protocol=corrected"),
        ("stage.optimiser={name:adam,learning_rate:0.1}", r"stage\.optimiser\.name=adam"),
    ],
)
def test_a_contradiction_is_refused_with_both_values(override: str, message: str) -> None:
    """Half of the released code is neither the paper's experiment nor ours."""
    with pytest.raises(ConfigError, match=message):
        compose(["protocol=released", override])
    assert compose(["protocol=corrected", override])


def test_what_agrees_or_is_no_part_of_the_code_is_free() -> None:
    experiment = compose(["protocol=released", "stage.epochs=10", "seed=3", "cluster.workers=1"])
    assert (experiment.stage.epochs, experiment.seed) == (10, 3)


def test_a_method_that_was_not_released_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no released code trains method=lora.*lpi"):
        compose(["protocol=released", "method=lora"])


def test_the_former_name_is_read_with_a_note() -> None:
    with pytest.warns(FutureWarning, match="protocol=published is called protocol=released"):
        assert compose(["protocol=published"]) == compose(["protocol=released"])


def test_adapters_of_the_former_protocol_are_read_as_they_were_learned(tmp_path: Any) -> None:
    """Their header says published, and nothing of what that meant."""
    method = {"name": "lpi", "rank": 4, "task_contrast": {"weight": 0.1, "temperature": 1.0}}
    folder = AdapterFolder(Folder.of(tmp_path))
    folder.save_header(
        AdapterHeader("clip", "f", method, "b", "g", "published", 0, ("a",), {"centers": 5})
    )
    folder.save_task(0, {"x": torch.zeros(1)})
    header = folder.header()
    assert header.protocol == "released"
    assert (header.method["constructed_depth"], header.method["prompt_depth"]) == (9, 1)
    assert header.method["task_contrast"] == {"weight": 0.1, "temperature": 0.001}
    assert InputConfig(**header.inputs).evaluation_augmentation == "crop_flip"
    assert former_settings({"name": "l2p"})[0]["selection"] == "batchwise_leaking"
