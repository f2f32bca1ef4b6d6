"""Results files of the released code are read and written as it has them: both score both."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from system.errors import DataError
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow, matrix_rows
from system.results.ranks import retrieval_ranks
from system.results.recall import retrieval_metrics
from system.results.res_file import from_res, to_res
from system.results.stream_metrics import (
    AVERAGE,
    FORGETTING,
    FORWARD_TRANSFER,
    PUBLISHED_AVERAGE,
    PUBLISHED_FORGETTING,
)

TASKS = ("appliance", "sports", "outdoor")
RECALLS = tuple(f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in (1, 5, 10))
IMAGES, CAPTIONS, WIDTH = 30, 2, 6  # images a task, captions an image


def _features(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images (I, D) and texts (T, D), different after each task."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(IMAGES * len(TASKS), WIDTH))
    texts = images.repeat(CAPTIONS, 0) + 1.5 * rng.normal(size=(len(images) * CAPTIONS, WIDTH))
    return images, texts


def _their_recalls(trained: int) -> dict[str, dict[str, list[float]]]:
    """Recalls in percent by the plain formulas, over the images and captions of the tasks seen."""
    images, texts = _features(trained)
    count = IMAGES * (trained + 1)
    images, texts = images[:count], texts[: count * CAPTIONS]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = images @ texts.T
    ranks: dict[str, list[int]] = {"i2t": [], "t2i": []}
    for image, row in enumerate(scores):
        order = list(np.argsort(-row))
        own = range(image * CAPTIONS, (image + 1) * CAPTIONS)
        # Other captions of the image are no mistakes: the best one's place among all.
        ranks["i2t"].append(min(order.index(text) for text in own))
    for text, column in enumerate(scores.T):
        ranks["t2i"].append(list(np.argsort(-column)).index(text // CAPTIONS))
    queries = {"i2t": IMAGES, "t2i": IMAGES * CAPTIONS}
    return {
        direction: {
            TASKS[task]: [
                100.0 * float(np.mean(np.array(found[task * n : (task + 1) * n]) < k))
                for k in (1, 5, 10)
            ]
            for task in range(trained + 1)
        }
        for direction, found in ranks.items()
        for n in [queries[direction]]
    }


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    return {task: {"mscoco": _their_recalls(i)} for i, task in enumerate(TASKS)}


@pytest.fixture(scope="module")
def ours() -> AccuracyMatrix:
    """The matrix of the same features by the code that a run uses."""
    rows: list[MatrixRow] = []
    image_of_text = torch.arange(IMAGES * len(TASKS)).repeat_interleave(CAPTIONS)
    for trained in range(len(TASKS)):
        images, texts = map(torch.from_numpy, _features(trained))
        rows += matrix_rows(
            trained,
            retrieval_metrics(
                retrieval_ranks(
                    images,
                    texts,
                    image_of_text,
                    torch.arange(len(TASKS)).repeat_interleave(IMAGES),
                    tasks=range(len(TASKS)),
                    gallery="seen",
                    seen=range(trained + 1),
                )
            ),
        )
    return AccuracyMatrix(TASKS, rows)


def test_an_export_has_what_the_formulas_give_on_the_same_features(
    ours: AccuracyMatrix, theirs: dict[str, Any]
) -> None:
    """Else two codes would be compared that do not count alike."""
    exported = to_res(ours)
    assert list(exported) == list(TASKS)
    for task in TASKS:
        assert list(exported[task]) == ["mscoco"]
        for direction in ("i2t", "t2i"):
            found, expected = (of[task]["mscoco"][direction] for of in (exported, theirs))
            assert list(found) == list(expected)
            for seen in expected:
                assert found[seen] == pytest.approx(expected[seen])


def test_an_import_has_the_summaries_of_the_formulas(theirs: dict[str, Any]) -> None:
    """Their average is each task's mean since it was learned; forgetting is last less best."""
    matrix = from_res(json.loads(json.dumps(theirs)), "res.json")
    assert matrix.tasks == TASKS
    for metric in RECALLS:
        direction, k = metric[:3], (1, 5, 10).index(int(metric[5:]))
        table = np.full((len(TASKS), len(TASKS)), np.nan)
        for i, trained in enumerate(TASKS):
            for j in range(i + 1):
                table[i, j] = theirs[trained]["mscoco"][direction][TASKS[j]][k]
        since = [np.mean(table[j:, j]) for j in range(len(TASKS))]
        best = [np.max(table[j:-1, j]) for j in range(len(TASKS) - 1)]
        lost = [table[-1, j] - best[j] for j in range(len(TASKS) - 1)]
        assert PUBLISHED_AVERAGE.of(matrix, metric).value == pytest.approx(np.mean(since))
        assert PUBLISHED_FORGETTING.of(matrix, metric).value == pytest.approx(np.mean(lost))
        assert AVERAGE.of(matrix, metric).value == pytest.approx(np.mean(table[-1]))
        assert FORGETTING.of(matrix, metric).value == pytest.approx(-np.mean(lost))
        assert "not evaluated" in (FORWARD_TRANSFER.of(matrix, metric).reason or "")


def test_what_is_exported_comes_back(ours: AccuracyMatrix) -> None:
    exported = to_res(ours)
    again = to_res(from_res(json.loads(json.dumps(exported)), "res.json"))
    assert json.dumps(again) == json.dumps(exported)


def test_tasks_may_be_keyed_by_their_categories_numbers(ours: AccuracyMatrix) -> None:
    """JSON has texts as keys; the order is that of the file, not that of the numbers."""
    numbers = {"appliance": "11", "sports": "6", "outdoor": "3"}
    exported = to_res(ours, numbers)
    assert list(exported) == ["11", "6", "3"]
    assert list(exported["6"]["mscoco"]["i2t"]) == ["11", "6"]
    names = {number: task for task, number in numbers.items()}
    assert json.dumps(to_res(from_res(exported, "res.json", names))) == json.dumps(to_res(ours))


def test_a_recall_that_cannot_fail_is_exported_as_their_formula_has_it() -> None:
    rows = [MatrixRow(0, 0, metric, 40.0, 4) for metric in RECALLS]
    reason = "no query can rank below 4 in this gallery: recall at 5 is always 100"
    rows[RECALLS.index("t2i_r5")] = MatrixRow(0, 0, "t2i_r5", float("nan"), 4, reason)
    assert to_res(AccuracyMatrix(["food"], rows))["food"]["mscoco"]["t2i"]["food"][1] == 100.0
    rows[RECALLS.index("t2i_r5")] = MatrixRow(0, 0, "t2i_r5", float("nan"), 0, "no queries")
    with pytest.raises(DataError, match=r"t2i R@5 on task 'food' after 'food' .* no queries"):
        to_res(AccuracyMatrix(["food"], rows))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "res.json is no object"),
        ({}, "res.json holds no recall"),
        ({"food": {"mscoco": {"i2t": {"food": [1, 2, 3]}}}}, "food.mscoco has no 't2i'"),
        ({"food": {"mscoco": {}, "flickr": {}}}, "food holds 2 data sets"),
        ({"food": {"mscoco": {"i2t": {"food": [1, 2]}, "t2i": {}}}}, "food.mscoco.i2t.food"),
        ({"food": {"mscoco": {"i2t": {"food": [1, 2, 101]}, "t2i": {}}}}, "R@10 is 101"),
        ({"food": {"mscoco": {"i2t": {"food": [1, "2", 3]}, "t2i": {}}}}, "R@5 is '2'"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_key(content: Any, named: str) -> None:
    with pytest.raises(DataError, match=named.replace("[", r"\[")):
        from_res(content, "res.json")
