"""Adapters that somebody sent end in one line, whatever stands in them, before they fill memory."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from system.errors import ConfigError, PromptideError
from system.methods import bounded_sizes
from system.methods.base import METHODS
from system.storage.adapters import HEADER, AdapterFolder, task_file
from system.storage.files import Folder
from system.stream.learned_state import LearnedState
from tests.methods.method_parts import backbone
from tests.stream.test_learned_state import learned

BIG = 10**9
Spoil = Callable[[dict[str, Any]], Any]
VALUES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, BIG, 10**30, "", "a", "../a", 1e308, -0.5])
    | st.lists(st.integers(-2, 2), max_size=2)
    | st.dictionaries(st.sampled_from(["name", "a"]), st.just("lpi"), max_size=1)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stream = learned("lpi", 2)
    assert stream.router is not None
    for task in range(2):
        stream.router.add_task(task, *[torch.eye(4, backbone().shape.feature_width) + task] * 2)
    stream.save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path) -> LearnedState[Any]:
    return LearnedState.from_pretrained(folder, backbone())


def rewrite_header(folder: Path, spoil: Spoil) -> None:
    content = json.loads((folder / HEADER).read_text())
    spoil(content)
    (folder / HEADER).write_text(json.dumps(content))


def rewrite_task(folder: Path, task: int, change: dict[str, Tensor | None]) -> None:
    adapters = AdapterFolder(Folder.of(folder))
    state = {**adapters.task(task), **change}
    (folder / task_file(task)).write_bytes(save({k: v for k, v in state.items() if v is not None}))


PRODUCT = {
    **{"name": "l2p", "pool_size": 4096, "top_k": 1},
    **{"prompt_length": 4096, "text_prompt_length": 1},
}
HEADERS: dict[str, tuple[Spoil, str]] = {
    "a rank of 16 TB": (
        lambda h: h["method"].update(rank=BIG),
        r"method\.rank=1000000000 is larger",
    ),
    "a product": (
        lambda h: h.update(method=PRODUCT),
        "method: its sizes make .* out of proportion",
    ),
    "more files than tasks": (lambda h: h.update(tasks=["animal"]), "names 1 tasks"),
    "no tasks": (lambda h: h.update(tasks=[]), "names 0 tasks"),
    "one task twice": (lambda h: h.update(tasks=["a", "a", "b"]), "name each task once"),
    "no method": (lambda h: h.update(method={}), r"adapter\.json: method\.name is missing"),
    "a method of no text": (lambda h: h["method"].update(name=["lpi"]), "no text"),
    "a seed beyond 64 bits": (lambda h: h.update(seed=2**70), r"adapter\.json: seed=\d+ must be"),
    "a negative seed": (lambda h: h.update(seed=-1), "seed=-1 must be"),
    "a router of text": (lambda h: h.update(router={"centers": "5"}), r"router\.centers='5'"),
    "a router of nothing": (lambda h: h.update(router={"centre": 5}), r"router\.centers=None"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_does_not_fit_is_named(folder: Path, kind: str) -> None:
    spoil, message = HEADERS[kind]
    load(folder)
    rewrite_header(folder, spoil)
    with pytest.raises(PromptideError, match=message):
        load(folder)


def test_a_header_nested_without_end_is_no_json(folder: Path) -> None:
    (folder / HEADER).write_bytes(b'{"a":' * 100_000)
    with pytest.raises(PromptideError, match=r"adapter\.json is not valid JSON: .*64 deep"):
        load(folder)


WIDTH = backbone().shape.feature_width
TENSORS: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "centres of one dimension": ({"router.text": torch.zeros(WIDTH)}, r"router\.text has shape"),
    "centres of no dimension": ({"router.text": torch.zeros(())}, r"router\.text has shape \(\)"),
    "no centres": ({"router.text": torch.zeros(0, WIDTH)}, r"expected \(1, "),
    "more centres than the header": ({"router.vision": torch.zeros(9, WIDTH)}, r"expected \(2, "),
    "centres of another width": ({"router.vision": torch.zeros(2, 3)}, r"router\.vision has shape"),
    "centres of NaN": ({"router.text": torch.full((2, WIDTH), torch.nan)}, "no finite numbers"),
    "centres of whole numbers": ({"router.text": torch.ones(2, WIDTH).long()}, "no finite numbers"),
    "another text": ({"task_text": torch.zeros(2, WIDTH)}, "task_text has shape"),
    "no text": ({"task_text": None}, "lacks task_text"),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("task", [0, 1])
def test_a_tensor_that_does_not_fit_is_named(folder: Path, kind: str, task: int) -> None:
    """Also of the first task, before which there is nothing to compare it with."""
    change, message = TENSORS[kind]
    rewrite_task(folder, task, change)
    with pytest.raises(PromptideError, match=message):
        load(folder)


def test_a_file_out_of_proportion_is_not_read(folder: Path) -> None:
    """A sparse file of a terabyte takes no room on disk, and would take all memory."""
    with (folder / task_file(1)).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(PromptideError, match=r"task-0001\.safetensors has .* out of proportion"):
        load(folder)


def test_sizes_whose_product_is_large_make_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side alone may be right."""
    monkeypatch.setattr(bounded_sizes, "LEAST_NUMBERS", 1000)
    shapes = bounded_sizes.shapes_of(torch.nn.Linear(2, 2))
    with bounded_sizes.bounded_allocation(shapes, "method"):
        torch.zeros(10, 10)
        torch.arange(100)
    for make in (
        lambda: torch.zeros(10**6, 10**6),
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.randn(10**6, 10**6, generator=torch.Generator()),
        lambda: torch.arange(10**12),
        lambda: torch.eye(10**6),
        lambda: torch.zeros(2).new_empty(10**6, 10**6),
        lambda: [torch.empty(100) for _ in range(10**12)],
    ):
        with (
            pytest.raises(ConfigError, match="out of proportion"),
            bounded_sizes.bounded_allocation(shapes, "method"),
        ):
            make()


@pytest.mark.parametrize("name", list(METHODS))
def test_no_size_of_any_method_is_tried(folder: Path, name: str) -> None:
    """Of a method that somebody adds neither: nothing in it has to be written for that."""
    for key, hint in get_type_hints(METHODS.get(name).config).items():
        if int in (hint, *get_args(hint)) and not key.endswith("seed"):
            content = json.loads((folder / HEADER).read_text())
            content["method"] = {"name": name, key: BIG}
            (folder / HEADER).write_text(json.dumps(content))
            with pytest.raises(ConfigError, match=rf"method\.{key}=1000000000 is larger"):
                load(folder)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for key, item in inner:
        own = (*path, key)
        found += leaves(item, own) if isinstance(item, dict | list) else [own]
    return found


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10**6), VALUES)
def test_any_value_anywhere_in_a_header_is_taken_or_refused(
    folder: Path, place: int, value: Any
) -> None:
    adapters = folder / HEADER
    before = adapters.read_bytes()
    try:
        content = json.loads(before)
        places = leaves(content)
        *way, last = places[place % len(places)]
        held = content
        for key in way:
            held = held[key]
        held[last] = value
        adapters.write_text(json.dumps(content))
        with suppress(PromptideError):
            load(folder)
    finally:
        adapters.write_bytes(before)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32))
def test_any_damage_of_a_file_is_taken_or_refused(folder: Path, seed: int) -> None:
    """Of a value of a tensor nobody can tell; of all else the error is one line."""
    rng = random.Random(seed)
    file = folder / rng.choice([HEADER, task_file(0), task_file(1)])
    before = file.read_bytes()
    data = bytearray(before)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 600))] = rng.randrange(256)
    if rng.random() < 0.2:
        data[:8] = struct.pack("<Q", rng.choice([0, 1, 1 << 20, 1 << 40, 2**64 - 1]))
    try:
        file.write_bytes(bytes(data))
        with suppress(PromptideError):
            load(folder)
    finally:
        file.write_bytes(before)
