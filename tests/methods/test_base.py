"""What every method promises: strict loading, frozen old tasks, names that are found."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import AdapterMismatchError, ConfigError
from system.methods.base import METHODS, methods_on
from system.methods.sharing import StreamMethod, method_kind
from tests.methods.method_parts import backbone, build, images, tokens, weights

State = dict[str, Tensor]
NAMES = methods_on("retrieval")
LEARNING = [
    name for name in NAMES if method_kind({"name": name}, "retrieval").trains_on != "nothing"
]
#: Sizes that fit the small backbone, for whatever method has such a setting.
SMALL = {"prompt_length": 4, "text_prompt_length": 3, "pool_size": 4, "top_k": 2}
MIXED = torch.tensor([0, 1, 0, 1, 1])
#: These start from the backbone's own weights, whatever the seed.
FROM_PRETRAINED = {"fine_tune", "fine_tune_per_task", "joint"}


def method(name: str, seed: int = 0) -> StreamMethod:
    known = {field.name for field in dataclasses.fields(METHODS.get(name).config)}
    section = {key: value for key, value in SMALL.items() if key in known}
    return build(name, section, seed=seed)


def learned(name: str) -> StreamMethod:
    """A method of two tasks whose parameters differ from where any method starts."""
    made = method(name, seed=9)
    made.begin_task(1, backbone())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def state(made: StreamMethod, task: int) -> State:
    return {name: value.detach().clone() for name, value in made.task_state(task).items()}


def inputs_of(made: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(made)


def inferred(made: StreamMethod) -> Tensor:
    """The task of each sample as evaluation gives it: a router's, or the last one trained."""
    return MIXED if made.needs_router else torch.full_like(MIXED, made.current)


def loss(made: StreamMethod) -> Tensor:
    """All that training adds up for the current task, with a retrieval loss that is simple."""
    total = torch.zeros(())
    for modality in MODALITIES:
        features, terms = made.encode_training(backbone(), modality, inputs_of(made, modality))
        total = total + features.pow(3).sum() + sum(term.mean() for term in terms.values())
    known = made.current + 1
    return total + sum(made.regularisers(torch.eye(known)).values(), torch.zeros(()))


@pytest.mark.parametrize("name", NAMES)
def test_loaded_tasks_give_the_same_features(name: str) -> None:
    """A run that goes on after a crash, and an adapter given to a colleague, must not differ."""
    source, target = learned(name), method(name)
    for task in (0, 1):
        target.load_task(task, state(source, task), backbone())
    assert target.known_tasks == 2
    for modality in MODALITIES:
        inputs = inputs_of(source, modality)
        assert torch.equal(
            source.encode(backbone(), modality, inputs, inferred(source)),
            target.encode(backbone(), modality, inputs, inferred(source)),
        )


@pytest.mark.parametrize("name", NAMES)
def test_beginning_a_task_again_keeps_what_it_learned(name: str) -> None:
    made = learned(name)
    before = state(made, 1)
    made.begin_task(1, backbone())
    assert all(torch.equal(value, before[key]) for key, value in state(made, 1).items())


@pytest.mark.parametrize("name", NAMES)
def test_only_the_current_task_s_parameters_train(name: str) -> None:
    """An earlier task's, trained on although a router still picks them, would be forgetting."""
    made = learned(name)
    training = {id(p) for p in made.parameters() if p.requires_grad}
    assert training == {id(p) for p in made.task_parameters(1).values()}
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == (
        made.parameters_per_task()
    )
    if made.needs_router:
        assert not training & {id(p) for p in made.task_parameters(0).values()}


@pytest.mark.parametrize("name", LEARNING)
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    """One without is counted and saved, and learns nothing."""
    made = learned(name)
    torch.autograd.backward(loss(made))
    for key, parameter in made.task_parameters(1).items():
        assert parameter.grad is not None, key
        # A bias of the keys shifts all attention scores alike: its gradient is 0.
        assert key.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", LEARNING)
def test_a_method_never_touches_the_backbone(name: str) -> None:
    before, made = weights(), method(name)
    made.begin_task(0, backbone())
    features = backbone()("vision", images(), None)
    optimiser = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.5)
    torch.autograd.backward(loss(made))
    optimiser.step()
    assert all(torch.equal(value, before[key]) for key, value in weights().items())
    assert all(p.grad is None and not p.requires_grad for p in backbone().parameters())
    assert torch.equal(backbone()("vision", images(), None), features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sample_s_feature_does_not_depend_on_its_batch(name: str, modality: Modality) -> None:
    """Else the figures would depend on which samples happen to be evaluated together."""
    made = learned(name)
    inputs, tasks = inputs_of(made, modality), inferred(made)
    mixed = made.encode(backbone(), modality, inputs, tasks)
    for i in range(len(tasks)):
        alone = made.encode(backbone(), modality, inputs[i : i + 1], tasks[i : i + 1])
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_initial_values_come_from_the_seed_alone(name: str) -> None:
    """Else a run could not be repeated, or three seeds would be one."""

    def start(seed: int, elsewhere: int) -> State:
        made = method(name, seed)
        with torch.random.fork_rng():
            torch.manual_seed(elsewhere)
            made.begin_task(1, backbone())
            after = torch.random.get_rng_state()
            torch.manual_seed(elsewhere)
            assert torch.equal(after, torch.random.get_rng_state()), "drew from the global numbers"
        return state(made, 1)

    first = start(3, 1)
    assert all(torch.equal(value, first[key]) for key, value in start(3, 2).items())
    differs = any(not torch.equal(value, first[key]) for key, value in start(4, 1).items())
    assert differs == (name not in FROM_PRETRAINED)


def without_first(given: State) -> str:
    key = next(iter(given))
    del given[key]
    return f"lacks {key}"


def with_surplus(given: State) -> str:
    given["surplus"] = torch.zeros(1)
    return "holds surplus"


def with_other_shape(given: State) -> str:
    key = next(iter(given))
    given[key] = torch.zeros(1, 2, 3)
    return rf"{key} has shape \(1, 2, 3\), expected"


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("spoil", [without_first, with_surplus, with_other_shape])
def test_a_state_that_does_not_fit_is_refused(name: str, spoil: Callable[[State], str]) -> None:
    """Loaded loosely, a wrong adapter would give figures that look like results."""
    given = state(learned(name), 0)
    message = spoil(given)
    with pytest.raises(AdapterMismatchError, match=message):
        method(name).load_task(0, given, backbone())


def test_another_rank_is_refused_with_the_remedy() -> None:
    other = build("lpi", {"prompt_length": 4, "text_prompt_length": 3, "rank": 2})
    with pytest.raises(AdapterMismatchError, match=r"layer has shape \(3, 4\).*set the same rank"):
        other.load_task(0, state(learned("lpi"), 0), backbone())


def test_unknown_method_tells_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lip'; did you mean 'lpi'\?"):
        METHODS.get("lip")
    assert {"lpi", "fine_tune", "joint", "zero_shot"} <= set(NAMES)
