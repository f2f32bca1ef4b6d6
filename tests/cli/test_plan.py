"""`promptide plan` tells what a run will take, without running it."""

import subprocess
import sys
from pathlib import Path

import pytest

from system import app
from system.planning.machines import PlanConfig, compose_plan
from tests.diff_prompt.mask_files import prepare_shapes
from tests.integration.small_rec_stream import prepare_small_rec, rec_overrides
from tests.integration.small_stream import overrides, prepare_small_stream


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    prepare_small_stream(folder)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app.main(["plan", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_neither_ray_nor_a_run_directory_is_needed(root: Path) -> None:
    words = ["plan", *overrides(root, "planned"), "plan.device=a100", "plan.devices=4"]
    code = (
        "import sys; from system.app import main; "
        f"status = main({words!r}); print('ray' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 40 images of each of 3 tasks: 2 full batches of 16, 3 epochs.
    assert "run planned: 288 samples in 18 steps" in done.stdout
    assert "4 x a100 of 312 TFLOP/s, 35 % of them reached" in done.stdout
    assert done.stdout.splitlines()[-1] == "False 0"
    assert not (root / "runs" / "planned").exists()


def test_the_pixel_cache_is_planned_up_to_its_bound(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "pixel cache" not in told(capsys, *overrides(root, "none", "stage.cache_gb=null"))
    # 156 images of 3 x 32 x 32 bytes.
    assert "pixel cache 479 KB" in told(capsys, *overrides(root, "all", "stage.cache_gb=1"))
    assert "pixel cache 100 KB" in told(capsys, *overrides(root, "few", "stage.cache_gb=0.0001"))


def test_a_grounder_is_planned_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_small_rec(tmp_path)
    sizes = ("cluster.workers=0", "method.prompt_length=4", "method.text_prompt_length=2")
    text = told(capsys, *rec_overrides(tmp_path, "rec", *sizes), "--measure")
    assert "grounder" in text
    assert "without the FLOPs" not in text
    assert "run on this machine" in text
    assert "FLOP/s reached" in text


def test_twice_the_devices_halve_the_time() -> None:
    one = PlanConfig("h100", devices=1)
    assert one.seconds(989e12 * 0.35, workers=9) == pytest.approx(1.0)
    assert PlanConfig(devices=2).seconds(1e15, 1) == one.seconds(1e15, 1) / 2
    assert PlanConfig(tflops=98.9, devices=1).seconds(1e15, 1) == pytest.approx(
        10 * one.seconds(1e15, 1)
    )
    assert compose_plan(["plan.tflops=5", "plan.utilisation=0.5"]).seconds(5e12, 2) == 1.0


def test_a_few_steps_are_measured(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, *overrides(root, "measured", "cluster.workers=0"), "--measure")
    assert "measured on CPU, 1 threads, after a warm-up" in text
    assert "FLOP/s reached" in text


def test_a_models_stage_is_planned_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_shapes(tmp_path)
    text = told(
        capsys,
        "experiment=mask_vae",
        "benchmark.name=shapes",
        f"data_path={tmp_path}",
        f"storage_path={tmp_path / 'runs'}",
        "stage.vae.image_size=16",
        "stage.batch_size=4",
        "cluster.workers=0",
        "--measure",
    )
    assert "Mask-VAE" in text
    assert "samples/s" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("plan.device=tpu", r"plan: device='tpu' is not one of: a10, .*plan.tflops"),
        ("plan.devices=0", "devices=0 must be at least 1"),
        ("plan.utilisation=35", "utilisation=35.0 must be above 0 and at most 1"),
        ("plan.speed=1", "unknown key plan.speed"),
        ("--mesure", "plan --mesure: unknown; --measure is the one option"),
        ("data_path=/nowhere", "is not prepared"),
    ],
)
def test_a_mistake_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    import re

    assert app.main(["plan", *overrides(root, "planned"), word]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
