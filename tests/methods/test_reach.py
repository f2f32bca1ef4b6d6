"""What a method says that it leaves as it is of a grounder, against what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from system.grounders.entries import Entries, Reach
from system.grounders.glip.glip import Glip
from system.grounders.grounder import Grounder
from system.methods.base import GroundingSetting, methods_on
from system.methods.sharing import StreamMethod, build_method
from tests.methods.test_grounding_methods import METHODS, batch

#: Methods of latents, which need a prompt generator: they are taken to enter both towers.
OF_LATENTS = {"diff_prompt", "lpi_diff_prompt"}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: settings for name, (settings, _) in METHODS.items()},
    "linear_probing/diff_prompt": {},
    "linear_probing/text": {"vision": False},
    "lpi/insert": {"rank": 2, "prompt_length": 4},
    "l2p/vision": METHODS["l2p"][0] | {"towers": ["vision"]},
    "l2p/text": METHODS["l2p"][0] | {"towers": ["text"]},
}
EXPECTED = {
    "zero_shot": Reach("regions", text=False),
    "coop": Reach("regions", text=True),
    "cocoop": Reach("regions", text=True),
    "fedtpg": Reach("regions", text=True),
    "l2p/text": Reach("regions", text=True),
    "vpt": Reach(None, text=False),
    "linear_probing": Reach("levels", text=False),
    "linear_probing/diff_prompt": Reach("regions", text=False),
    "clip_adapter": Reach("levels", text=False),
    "lpi": Reach(None, text=True),
}


def stream_method(name: str, grounder: Grounder) -> StreamMethod:
    """A method with random parameters: as they start, some change nothing."""
    method, _, form = name.partition("/")
    variant = {"variant": form} if form == "diff_prompt" else {}
    section = {"name": method, **variant, **SETTINGS[name]}
    made = build_method(section, GroundingSetting(grounder.shape, 3))
    made.begin_task(0, grounder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def outputs(
    grounder: Glip, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[Tensor]]:
    """What leaves each part of the grounder for two samples."""
    found: dict[str, list[Tensor]] = {}
    network = grounder.network

    def watched(name: str) -> Any:
        plain = getattr(network, name)

        def call(*args: Any) -> Any:
            made = plain(*args)
            found[name] = [made] if isinstance(made, Tensor) else list(made)
            return made

        return call

    with monkeypatch.context() as patch, torch.no_grad():
        for name in ("see", "read", "regions"):
            patch.setattr(network, name, watched(name))
        grounder.dense(batch(grounder), entries)
    return found


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_method_changes_what_it_says_and_nothing_before(
    name: str, small: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tower kept that a method enters would train nothing, and no result would tell."""
    assert isinstance(small, Glip)
    method = stream_method(name, small)
    reach = method.reach(small)
    tasks = torch.zeros(2, dtype=torch.long)
    entries = method.entries(small, batch(small), tasks, None)
    plain = outputs(small, Entries(), monkeypatch)
    found = outputs(small, entries, monkeypatch)
    assert equal(found["see"], plain["see"]) is (reach.image is not None)
    # Words of a text that is shorter than the prompts are padded: none has to be equal then.
    assert equal(found["read"], plain["read"]) is not reach.text
    before = entries.adapt_level is None or reach.image is None
    assert (equal(found["regions"], plain["regions"]) and before) is (reach.image == "regions")
    assert EXPECTED.get(name, reach) == reach


def test_every_method_on_a_grounder_is_looked_at() -> None:
    """One that is forgotten here may say what it likes."""
    named = {name.partition("/")[0] for name in SETTINGS}
    assert named | OF_LATENTS >= set(methods_on("grounding"))
