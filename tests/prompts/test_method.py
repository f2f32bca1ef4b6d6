"""What every method promises: strict loading, frozen old tasks, names that are found."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from system.errors import AdapterMismatchError, ConfigError
from system.prompts.method import METHODS, Method
from tests.prompts.method_parts import backbone, build, images, tokens, weights

State = dict[str, Tensor]
NAMES = sorted(METHODS)


def method(name: str, seed: int = 0) -> Method:
    section = {"prompt_length": 4} if name == "lpi" else {}
    return build(name, section, seed=seed, protocol="corrected")


def learned(name: str) -> Method:
    """A method of two tasks whose parameters differ from where any method starts."""
    made = method(name, seed=9)
    made.begin_task(1, backbone())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01)
    return made


def state(made: Method, task: int) -> State:
    return {name: value.detach().clone() for name, value in made.task_parameters(task).items()}


@pytest.mark.parametrize("name", NAMES)
def test_loaded_tasks_give_the_same_features(name: str) -> None:
    """A run that goes on after a crash, and an adapter given to a colleague, must not differ."""
    source, target = learned(name), method(name)
    for task in (0, 1):
        target.load_task(task, state(source, task), backbone())
    assert target.known_tasks == 2
    tasks = torch.tensor([0, 1, 0, 1, 1])
    assert torch.equal(
        source.encode(backbone(), "vision", images(), tasks),
        target.encode(backbone(), "vision", images(), tasks),
    )
    assert torch.equal(
        source.encode(backbone(), "text", tokens(source), tasks),
        target.encode(backbone(), "text", tokens(target), tasks),
    )


@pytest.mark.parametrize("name", NAMES)
def test_beginning_a_task_again_keeps_what_it_learned(name: str) -> None:
    made = learned(name)
    before = state(made, 1)
    made.begin_task(1, backbone())
    assert all(torch.equal(value, before[key]) for key, value in state(made, 1).items())
    assert [key for key, value in made.task_parameters(0).items() if value.requires_grad] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_method_never_touches_the_backbone(name: str) -> None:
    before, made = weights(), method(name)
    made.begin_task(0, backbone())
    optimiser = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.5)
    tasks = torch.zeros(5, dtype=torch.long)
    torch.autograd.backward(made.encode(backbone(), "vision", images(), tasks).square().sum())
    optimiser.step()
    assert all(torch.equal(value, before[key]) for key, value in weights().items())
    assert all(p.grad is None and not p.requires_grad for p in backbone().parameters())


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", [without_first, with_surplus, with_other_shape])
def test_a_state_that_does_not_fit_is_refused(name: str, spoil: Callable[[State], str]) -> None:
    """Loaded loosely, a wrong adapter would give figures that look like results."""
    given = state(learned(name), 0)
    message = spoil(given)
    with pytest.raises(AdapterMismatchError, match=message):
        method(name).load_task(0, given, backbone())


def test_another_rank_is_refused_with_the_remedy() -> None:
    other = build("lpi", {"prompt_length": 4, "rank": 2}, protocol="corrected")
    with pytest.raises(AdapterMismatchError, match=r"layer has shape \(3, 4\).*set the same rank"):
        other.load_task(0, state(learned("lpi"), 0), backbone())


def test_unknown_method_tells_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lip'; did you mean 'lpi'\?"):
        METHODS.get("lip")
    assert {"lpi", "fine_tune_per_task"} <= set(NAMES)
