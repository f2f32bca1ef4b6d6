from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden.__main__ import main
from tests.golden.runner import CHECKS, Result, failed, run

HERE = Path(__file__).parent

# one output of each fixture, in which a small change must be noticed
OUTPUTS = {
    "low_rank_prompt": "text_prompt",
    "contrastive_loss": "grad_logits",
    "nt_bxent": "grad_x_2",
    "layer_alignment": "loss_grounding",
    "task_contrast": "loss_single_sigmoid",
    "prompted_clip": "text_depth2",
    "routing": "task",
    "retrieval_metrics": "t2i_recall_1_5_10",
    "forgetting": "published_average",
    "lpi_on_glip": "out_routing_feature",
    "interaction": "text_out_layer4",
    "maple": "vision_prompts_per_layer",
    "l2p": "prompted_per_sample",
    "mask_vae_loss": "loss",
    "mask_dit": "output",
    "diffusion": "loss_vb",
    "prompt_adapter": "prompt_layer2",
    "diff_prompt_on_glip": "out_boxes",
    "rec_recall": "recall_iou_1_5_10_all",
    "glip_boxes": "out_decoded",
    "glip_deform": "out_mismatch_grad_offset",
    "glip_dyhead": "out_tower_nearest_p7",
    "glip_fpn": "out_p7",
    "glip_swin": "out_c4_1",
    "glip_language": "out_logits_2",
    "glip_end_to_end": "out_boxes",
    "glip_full": "out_boxes",
    "glip_inputs": "out_boxes_shortest_side",
    "glip_losses": "out_normal_grad_boxes_0",
    "glip_postprocess": "out_tight_boxes_1",
    "clip_adapter": "output",
    "fedtpg": "output",
}
#: Checks that write and read a whole GLIP-T (A), of 600 MB.
LARGE = {"glip_full"}
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in sorted(OUTPUTS)
]


def _result(directory: Path, name: str) -> Result:
    return next(result for result in run(directory) if result.name == name)


def _edit(name: str, directory: Path, change: Callable[[dict[str, NDArray[Any]]], None]) -> Result:
    """The result of a copy of the fixture to which `change` was done."""
    with np.load(HERE / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    change(arrays)
    np.savez(directory / f"{name}.npz", **arrays)
    return _result(directory, name)


def test_every_check_has_a_fixture_in_the_repository_and_a_corruption_here() -> None:
    """A subject without its fixture would silently stop being held to the published arithmetic."""
    assert {path.stem for path in HERE.glob("*.npz")} == set(CHECKS) == set(OUTPUTS)


@pytest.mark.parametrize("name", NAMES)
def test_product_agrees_with_the_published_arithmetic(name: str, tmp_path: Path) -> None:
    shutil.copy(HERE / f"{name}.npz", tmp_path)
    result = _result(tmp_path, name)
    assert result.status == "pass", result.line()


@pytest.mark.parametrize("name", NAMES)
def test_one_wrong_element_is_caught(name: str, tmp_path: Path) -> None:
    """A runner that cannot fail proves nothing."""
    output = OUTPUTS[name]

    def spoil(arrays: dict[str, NDArray[Any]]) -> None:
        spoiled = np.array(np.nan_to_num(arrays[output], nan=1.0))
        spoiled.flat[-1] += 1 if spoiled.dtype.kind == "i" else 2e-3 * abs(spoiled.flat[-1]) + 2e-4
        arrays[output] = spoiled

    result = _edit(name, tmp_path, spoil)
    assert result.status == "FAIL"
    assert output in result.line()


def test_tolerance_of_one_output_is_only_its_own(tmp_path: Path) -> None:
    """What is allowed to a long path of steps must not be allowed to the loss."""

    def nudge(name: str) -> Callable[[dict[str, NDArray[Any]]], None]:
        def change(arrays: dict[str, NDArray[Any]]) -> None:
            wide = arrays[name].astype(np.float64)
            smallest = np.unravel_index(np.abs(wide).argmin(), wide.shape)
            wide[smallest] += 1e-4
            arrays[name] = wide

        return change

    assert _edit("diffusion", tmp_path, nudge("ddim_path")).status == "pass"
    assert _edit("diffusion", tmp_path, nudge("x_t")).status == "FAIL"


def test_tolerance_may_be_a_share_of_the_largest_value(tmp_path: Path) -> None:
    """Of GLIP's fixtures: an element near 0 has the rounding of those that it was made of."""

    def nudge(output: str, share: float) -> Callable[[dict[str, NDArray[Any]]], None]:
        def change(arrays: dict[str, NDArray[Any]]) -> None:
            wide = arrays[output].astype(np.float64)
            smallest = np.unravel_index(np.abs(wide).argmin(), wide.shape)
            wide[smallest] += share * np.abs(wide).max()
            arrays[output] = wide

        return change

    assert _edit("glip_boxes", tmp_path, nudge("out_decoded", 8e-6)).status == "pass"
    assert _edit("glip_boxes", tmp_path, nudge("out_decoded", 2e-5)).status == "FAIL"
    assert _edit("glip_boxes", tmp_path, nudge("out_anchors_p3", 8e-6)).status == "FAIL"


def test_wrong_shape_is_caught(tmp_path: Path) -> None:
    def drop_row(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["grad_logits"] = arrays["grad_logits"][:-1]

    assert _edit("contrastive_loss", tmp_path, drop_row).status == "FAIL"


def test_missing_array_is_one_failed_line(tmp_path: Path) -> None:
    """Another set's odd file must not hide the results of the others behind a traceback."""

    def forget(arrays: dict[str, NDArray[Any]]) -> None:
        del arrays["logits"]

    result = _edit("contrastive_loss", tmp_path, forget)
    assert result.status == "FAIL"
    assert "logits" in result.detail


def test_nan_where_a_number_is_expected_is_caught(tmp_path: Path) -> None:
    def poison(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["logits"] = arrays["logits"] * np.float32("nan")

    assert _edit("contrastive_loss", tmp_path, poison).status == "FAIL"


def test_cases_of_another_number_and_size_are_read_from_the_fixture(tmp_path: Path) -> None:
    """Sets differ in sizes; a check that assumes ours would reject a right product."""

    def shrink(arrays: dict[str, NDArray[Any]]) -> None:
        for case in (0, 1):
            for name in ("x", "target", "temperature", "loss", "grad_x"):
                del arrays[f"{name}_{case}"]

    assert _edit("nt_bxent", tmp_path, shrink).status == "pass"


def test_fixture_that_expects_only_nan_says_so(tmp_path: Path) -> None:
    """A pass on NaN alone must not be read as a proof of the arithmetic."""

    def forget(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["similarity"] = np.ones_like(arrays["similarity"])
        for name in ("loss_retrieval", "loss_grounding", "loss_single_sigmoid"):
            arrays[name] = np.array(np.nan)

    assert "NaN" in _edit("task_contrast", tmp_path, forget).line()


def test_unreadable_file_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "routing.npz").write_bytes(b"not a zip file")
    assert failed(run(tmp_path))
    assert main([str(tmp_path)]) == 1


def test_uncovered_subject_is_listed_without_failing(tmp_path: Path) -> None:
    shutil.copy(HERE / "routing.npz", tmp_path)
    np.savez(tmp_path / "later_subject.npz", x=np.zeros(1))
    statuses = {result.name: result.status for result in run(tmp_path)}
    assert statuses["later_subject"] == "not covered"
    assert statuses["forgetting"] == "missing"
    assert not failed(run(tmp_path))


def test_command_prints_a_line_a_fixture_and_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in OUTPUTS.keys() - LARGE:
        shutil.copy(HERE / f"{name}.npz", tmp_path)
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS)
    assert all("abs" in line and "rel" in line for line in lines)
    assert sum(line.endswith(" pass") for line in lines) == len(CHECKS) - len(LARGE)


def test_directory_without_a_known_fixture_fails(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1


def test_wrong_call_is_told_how_to_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/at/all"]) == 2
    assert "usage" in capsys.readouterr().err
