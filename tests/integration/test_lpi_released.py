"""`experiment=lpi_released` on a small set in the authors' own format: the release by counts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from system import app
from system.backbones.dual_encoder import load_backbone
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.objectives.retrieval.retrieval_evaluation import StreamEvaluation
from system.stream.preflight import prepared
from tests.backbones.small_clip import write_small_clip
from tests.data.datasets.test_lpi_release import write_release
from tests.integration.in_process import learn_experiment
from tests.integration.small_stream import WORDS

TASKS = ["appliance", "sports", "outdoor"]
IMAGES = 66  # of a task's training split, each with two captions
STEPS = 2 * IMAGES // 64


def experiment(root: Path, *more: str) -> ExperimentConfig:
    return compose(words(root, *more))


def words(root: Path, *more: str) -> list[str]:
    return [
        "experiment=lpi_released",
        f"backbone.path={root / 'clip'}",
        f"benchmark.options.root={root / 'release'}",
        f"benchmark.tasks=[{','.join(TASKS)}]",
        f"storage_path={root / 'runs'}",
        f"data_path={root / 'data'}",
        "run_name=released",
        "cluster.workers=0",
        *more,
    ]


@dataclass(frozen=True)
class Searched:
    """Features of all tasks' test images (I, P) and texts (T, P), and whose they are."""

    images: NDArray[Any]
    texts: NDArray[Any]
    image_of_text: NDArray[Any]
    image_task: NDArray[Any]


@pytest.fixture(scope="module")
def searched() -> dict[int, Searched]:
    """What was searched after each task, once the run is finished."""
    return {}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, searched: dict[int, Searched]
) -> tuple[Path, dict[str, Any]]:
    """The root of a finished run, and its metrics."""
    after_task = StreamEvaluation.after_task

    def noted(self: StreamEvaluation, trained: int, *more: Any) -> Any:
        rows = after_task(self, trained, *more)
        found = self.prompted["vision"], self.prompted["text"]
        tensors = *found, self.tests.image_of_text, self.tests.image_task
        searched[trained] = Searched(*(tensor.double().numpy() for tensor in tensors))
        return rows

    root = tmp_path_factory.mktemp("released")
    write_release(root / "release", per_task=IMAGES)
    write_small_clip(root / "clip", WORDS, context=32)
    assert app.main(["prepare", *words(root)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamEvaluation, "after_task", noted)
        return root, learn_experiment(experiment(root))


def test_an_epoch_has_a_step_for_each_64_captions(finished: tuple[Path, dict[str, Any]]) -> None:
    """Over images it would have half of the steps, and be another training."""
    root, metrics = finished
    log = pq.read_table(root / "runs/released/training_log.parquet").to_pylist()
    assert [row["step"] for row in log if row["task"] == "sports"] == [
        STEPS * epoch for epoch in range(1, 11)
    ]
    assert "smaller_batches" not in metrics
    assert {row["loss_task_contrast"] is None for row in log if row["task"] == TASKS[0]} == {True}


def test_a_task_trains_the_release_s_parameters(finished: tuple[Path, dict[str, Any]]) -> None:
    """R (9 + N + N + Dv + Dt): 5,284 with ViT-B/16's widths of 768 and 512."""
    root, metrics = finished
    shape = load_backbone(experiment(root).backbone).shape
    expected = 4 * (9 + 16 + 16 + shape.vision_width + shape.text_width)
    assert metrics["trainable_parameters_per_task"] == expected
    assert 4 * (9 + 16 + 16 + 768 + 512) == 5_284


def test_a_text_is_placeholders_the_caption_and_a_full_stop(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = finished
    found = experiment(root)
    backbone = load_backbone(found.backbone)
    ids = backbone.tokenize([found.inputs.text("a dog")], 16)
    plain = backbone.tokenize(["a dog ."], 0)
    assert int(backbone.text_lengths(ids)) == 16 + int(backbone.text_lengths(plain))
    assert found.inputs.text("a dog") == "a dog."
    stop, plain_stop = (int(backbone.text_lengths(text)) - 2 for text in (ids, plain))
    assert ids[0, stop] == plain[0, plain_stop]  # what stands before the end


def test_metrics_say_how_images_and_tasks_were_seen(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, metrics = finished
    assert metrics["protocol"] == "released"
    assert metrics["evaluation"]["gallery"] == "seen"
    assert metrics["evaluation"]["transform"].startswith("a random crop")
    assert metrics["replayed_rows"] == 0


def test_saved_adapters_are_evaluated_with_the_release_s_inputs(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """With another transform or text the figures would not be those of the run."""
    root, metrics = finished
    capsys.readouterr()
    ours = ["protocol=corrected", "experiment=lpi", *words(root)[1:], "benchmark=lpi_release"]
    assert app.main(["evaluate", *ours]) == 0
    printed = capsys.readouterr().out
    assert f"{metrics['average']['t2i_r1']:.1f}" in printed
    header = json.loads((root / "runs/released/adapters/adapter.json").read_text())
    assert header["inputs"]["text_template"] == "{caption}."


def their_recalls(found: Searched, trained: int) -> dict[str, dict[str, list[float]]]:
    """The release's formulas on the ranks among the tasks seen: a query that ties has lost."""
    images, texts = found.images, found.texts
    scores = images @ texts.T
    scores /= np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(texts, axis=1)
    task_of_text = found.image_task[found.image_of_text.astype(int)]
    recalls: dict[str, dict[str, list[float]]] = {"i2t": {}, "t2i": {}}
    for task in range(trained + 1):
        ranks: dict[str, list[int]] = {"i2t": [], "t2i": []}
        for image in np.flatnonzero(found.image_task == task):
            seen = scores[image][task_of_text <= trained]
            right = found.image_of_text[task_of_text <= trained] == image
            ranks["i2t"].append(int((seen[~right] >= seen[right].max() - 1e-6).sum()))
        for text in np.flatnonzero(task_of_text == task):
            seen = scores[:, text][found.image_task <= trained]
            right = np.flatnonzero(found.image_task <= trained) == found.image_of_text[text]
            ranks["t2i"].append(int((seen[~right] >= seen[right].max() - 1e-6).sum()))
        for direction, of_task in ranks.items():
            recalls[direction][TASKS[task]] = [
                100.0 * len([rank for rank in of_task if rank < k]) / len(of_task)
                for k in (1, 5, 10)
            ]
    return recalls


def test_the_res_file_is_what_the_release_s_formulas_give(
    finished: tuple[Path, dict[str, Any]], searched: dict[int, Searched], tmp_path: Path
) -> None:
    """Both codes can be scored by both: each row over the images and captions seen so far."""
    root, metrics = finished
    file = tmp_path / "res.json"
    assert app.main(["export", "res", str(root / "runs/released"), str(file)]) == 0
    exported = json.loads(file.read_text())
    assert list(exported) == TASKS
    for trained, task in enumerate(TASKS):
        expected = their_recalls(searched[trained], trained)
        for direction, of_tasks in expected.items():
            found = exported[task]["mscoco"][direction]
            assert list(found) == TASKS[: trained + 1]
            for seen, recalls in of_tasks.items():
                assert found[seen] == pytest.approx(recalls), (task, direction, seen)
    assert app.main(["import", "res", str(file), str(tmp_path / "theirs")]) == 0
    theirs = json.loads((tmp_path / "theirs" / "metrics.json").read_text())
    for summary in ("average", "published_average", "published_forgetting"):
        for recall, value in theirs[summary].items():
            assert value == pytest.approx(metrics[summary][recall])


def test_the_released_recipe_needs_the_prepared_files(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="prepare"):
        prepared(experiment(tmp_path))


def test_exported_results_are_the_release_s_formulas_on_the_same_ranks(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Both codes could not be compared by what either of them writes."""
    root, metrics = finished
    file = tmp_path / "res.json"
    assert app.main(["export", "res", str(root / "runs/released"), str(file)]) == 0
    res = json.loads(file.read_text())
    assert list(res) == TASKS
    assert [list(row["mscoco"]["t2i"]) for row in res.values()] == [
        TASKS[: n + 1] for n in range(len(TASKS))
    ]
    # The last row, from each query's own rank.
    rows = pq.read_table(root / "runs/released/ranks.parquet").to_pylist()
    for direction in ("i2t", "t2i"):
        for task in TASKS:
            ranks = [
                row["rank"]
                for row in rows
                if (row["phase"], row["direction"], row["task"]) == ("after", direction, task)
            ]
            assert len(ranks) == IMAGES * (2 if direction == "t2i" else 1)
            expected = [100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
            assert res[TASKS[-1]]["mscoco"][direction][task] == pytest.approx(expected)
    # Their average is over all evaluations since a task was learned; their forgetting is the last
    # value less the best one before it.
    for direction in ("i2t", "t2i"):
        for place, name in enumerate(("r1", "r5", "r10")):
            of_task = [
                [res[trained]["mscoco"][direction][task][place] for trained in TASKS[at:]]
                for at, task in enumerate(TASKS)
            ]
            average = sum(sum(values) / len(values) for values in of_task) / len(TASKS)
            lost = [values[-1] - max(values[:-1]) for values in of_task[:-1]]
            metric = f"{direction}_{name}"
            assert metrics["published_average"][metric] == pytest.approx(average)
            assert metrics["published_forgetting"][metric] == pytest.approx(sum(lost) / len(lost))


def test_a_task_is_searched_in_the_gallery_of_those_seen_so_far(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    """With all tasks' images the early rows of the matrix would be another experiment's."""
    root, _ = finished
    rows = pq.read_table(root / "runs/released/ranks.parquet").to_pylist()
    sizes = {
        (row["phase"], row["direction"]): row["gallery"] for row in rows if row["task"] == TASKS[0]
    }
    assert sizes["after", "t2i"] == IMAGES * len(TASKS)
    assert sizes["after", "i2t"] == 2 * IMAGES * len(TASKS)
