"""The counts that the paper's table compares, by the formulas of the methods' papers."""

import pytest

from tuning.report.parameters import PUBLISHED_TASKS, count_all

LAYERS, VISION, TEXT = 12, 768, 512


def test_lpi_at_its_published_sizes() -> None:
    """r (L + 2 N + d_v + d_t) a task."""
    (count,) = count_all(["method=lpi", "method.rank=4", "method.prompt_length=16"])
    each = 4 * (LAYERS + 2 * 16 + VISION + TEXT)
    assert (count.per_task, count.total) == (each, PUBLISHED_TASKS * each)
    assert count.bytes_per_task == 4 * each


@pytest.mark.parametrize(
    ("overrides", "per_task"),
    [
        (["method=maple"], 3_555_072),
        (["method=maple", "method.prompt_depth=12"], 4_740_096),
        (["method=s_prompts", "method.prompt_length=16", "method.text_prompt_length=16"], 20_480),
        (["method=l2p"], 74_240),
        (["method=dualprompt"], 25_600 + 154_624),
        (["method=coda_prompt"], 491_520),
        (["method=lora"], 491_520),
    ],
)
@pytest.mark.parametrize("sharing", ["own", "shared"])
def test_methods_at_their_papers_sizes(overrides: list[str], per_task: int, sharing: str) -> None:
    """With parameters of its own a task trains as many as a stream that shares them."""
    (count,) = count_all([*overrides, f"method.sharing={sharing}"])
    assert count.per_task == per_task
    if sharing == "own":
        assert count.total == PUBLISHED_TASKS * per_task


def test_the_cost_of_lpi_s_interaction_is_listed() -> None:
    """2 r (l + d_v + d_t + 1) + 2 (d_v + d_t) more, r and l its own rank and layers."""
    counts = {count.label: count for count in count_all([])}
    cost = 2 * 4 * (LAYERS + VISION + TEXT + 1) + 2 * (VISION + TEXT)
    assert counts["lpi, interacting"].per_task - counts["lpi"].per_task == cost == 12904


def test_shared_parameters_do_not_grow_with_the_tasks() -> None:
    (count,) = count_all(["method=maple"])
    assert count.total == count.per_task
    assert count.growth == 0


def test_the_whole_backbone_but_its_logit_scale() -> None:
    (count,) = count_all(["method=fine_tune"])
    assert count.total == count.backbone - 1
    assert 149e6 < count.backbone < 150e6  # ViT-B/16's


def test_the_methods_of_a_sweep_are_counted_with_their_overrides() -> None:
    counts = count_all(["experiment=compare", "tune.only=[zero_shot,lpi,lpi_no_interaction]"])
    assert [count.label for count in counts] == ["zero_shot", "lpi", "lpi_no_interaction"]
    assert counts[0].total == 0
    assert counts[2].per_task == 4 * (LAYERS + 8 + 1 + VISION + TEXT)
    assert counts[1].per_task - counts[2].per_task == 12904
