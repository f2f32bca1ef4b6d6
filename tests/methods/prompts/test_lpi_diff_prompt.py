"""Instance prompts beside a task's low-rank prompts: both enter, and both learn."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.errors import ConfigError
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.tokens import Tokens
from system.methods.base import GroundingSetting, build_task_method
from system.methods.prompts.lpi_diff_prompt import LpiDiffPrompt
from system.methods.sharing import build_method

SHAPE = GrounderShape((6, 6, 12, 12), (8, 8, 8), (6, 12), 16, 10, 12)
NOTHING = cast(Grounder, torch.nn.Linear(1, 1))  # the method asks it for its device alone
TOKENS = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
BATCH = GroundingBatch(torch.zeros(2, 3, 16, 16), TOKENS)
SECTION = {
    "name": "lpi_diff_prompt",
    "generator": {},
    "prompt_length": 4,
    "depth": 3,
    "steps": 5,
    "low_rank": {"rank": 2, "prompt_length": 3, "text_prompt_length": 1},
}


@pytest.fixture(scope="module")
def setting() -> GroundingSetting:
    sizes = MaskVaeConfig(16, (4, 8), 2)
    masks = MaskDecoder(sizes, "d", lambda: (build_mask_vae(sizes, seed=0), 0.5))
    return GroundingSetting(SHAPE, seed=1, masks=masks)


def build(setting: GroundingSetting, **changes: Any) -> LpiDiffPrompt:
    method = build_task_method(SECTION | changes, setting)
    assert isinstance(method, LpiDiffPrompt)
    return method


def latents() -> torch.Tensor:
    return torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_prompts_of_a_layer_stand_side_by_side(setting: GroundingSetting) -> None:
    """The fourth vision block is too deep for instance prompts: the task's is there alone."""
    method = build(setting)
    entries = method.entries(NOTHING, BATCH, latents())
    shapes = [tuple(prompt.shape) for prompt in entries.vision]
    assert shapes == [(2, 7, 6), (2, 7, 6), (2, 7, 12), (1, 3, 12)]
    assert [tuple(prompt.shape) for prompt in entries.text] == [(2, 5, 8)] * 3
    task = method.task.entries(NOTHING, BATCH, None)
    instance = method.instance.entries(NOTHING, BATCH, latents())
    for layer in range(3):
        for sample in range(2):
            torch.testing.assert_close(entries.vision[layer][sample, :3], task.vision[layer][0])
            torch.testing.assert_close(
                entries.vision[layer][sample, 3:], instance.vision[layer][sample]
            )
    assert not torch.equal(entries.vision[0][0], entries.vision[0][1]), "an instance's own half"


def test_the_instance_s_prompt_alone_enters_behind_the_norm(setting: GroundingSetting) -> None:
    """LPI's goes through it as without Diff-Prompt."""
    method = build(setting, prompt_norm="none", relative_bias="released")
    entries = method.entries(NOTHING, BATCH, latents())
    assert [tuple(p.shape) for p in entries.vision] == [(1, 3, w) for w in SHAPE.vision_widths]
    after = [tuple(prompt.shape) for prompt in entries.windows.after_norm]
    assert after == [(2, 4, 6), (2, 4, 6), (2, 4, 12)]
    assert entries.windows.relative_bias == "released"


def test_both_parts_learn_and_the_mask_vae_does_not(setting: GroundingSetting) -> None:
    method = build(setting)
    entries = method.entries(NOTHING, BATCH, latents())
    total = torch.stack([p.square().sum() for p in (*entries.vision, *entries.text)]).sum()
    torch.autograd.backward(total)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"instance", "task"}
    terms = method.regularisers([build(setting)], torch.eye(2))
    assert set(terms) == {"layer_alignment", "task_contrast"}


def test_each_task_has_its_own_in_a_stream(setting: GroundingSetting) -> None:
    method = build_method(SECTION, setting)
    method.begin_task(0, NOTHING)
    method.begin_task(1, NOTHING)
    assert method.latent_needs is not None
    trained = {key for key, p in method.named_parameters() if p.requires_grad}
    assert {key.split(".")[1] for key in trained} == {"1"}
    tasks = torch.tensor([1, 0])
    entries = method.entries(NOTHING, BATCH, tasks, latents())
    for sample, task in enumerate(tasks.tolist()):
        own = method.tasks[task]
        assert isinstance(own, LpiDiffPrompt)
        expected = own.entries(NOTHING, BATCH, latents()).vision[0][sample]
        torch.testing.assert_close(entries.vision[0][sample], expected)


def test_a_low_rank_setting_is_named_by_its_place(setting: GroundingSetting) -> None:
    with pytest.raises(ConfigError, match=r"method\.low_rank\.rank"):
        build(setting, low_rank={"ranks": 2})
