"""Evaluation of a grounding stream: per expression, once an expression, whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import pytest
import torch
from torch import Tensor

from system.data.shards.manifest import JOINED, Manifest, SplitHandle
from system.engine.model_stage import show_nothing
from system.engine.worker_group import WorkerGroup
from system.grounders.entries import Entries, Reach
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting
from system.methods.sharing import StreamMethod, build_method
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.objectives.grounding.grounding_evaluation import GroundingEvaluation
from system.objectives.grounding.rec_rank_table import rec_rank_table
from system.objectives.grounding.rec_scoring import Found, RecScorer
from system.results.accuracy_matrix import ZERO_SHOT, MatrixRow
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.stream.router import Router
from tests.engine.thread_group import ALONE, on_threads
from tests.grounders.small_glip import loaded


class Counted:
    """A stream's method that counts the expressions it was asked for."""

    def __init__(self, method: StreamMethod) -> None:
        self.method = method
        self.asked = 0
        self.trains_on = method.trains_on
        self.needs_router = method.needs_router

    def entries(
        self, grounder: Grounder, batch: GroundingBatch, tasks: Tensor, latents: Tensor | None
    ) -> Entries:
        self.asked += len(tasks)
        return self.method.entries(grounder, batch, tasks, latents)

    def reach(self, grounder: Grounder) -> Reach:
        return self.method.reach(grounder)


#: The library loads a model under switches of the whole process, which these threads share.
ONE_AT_A_TIME = Lock()


def method_of(grounder: Grounder, name: str = "lpi") -> StreamMethod:
    section = {"name": name, "prompt_length": 2, "init_std": 1.5}
    method = build_method(
        section | ({"task_start": "own"} if name == "lpi" else {}),
        GroundingSetting(grounder.shape, 0),
    )
    for task in range(2):
        method.begin_task(task, grounder)
    return method


def evaluation_of(
    grounder: Grounder, manifest: Manifest, store: Path, block: int, group: WorkerGroup = ALONE
) -> GroundingEvaluation:
    """Both tasks, judged on the twelve expressions of their train split."""

    def open_test(task: int, split: str | None = None) -> SplitHandle:
        return manifest.tasks[task].handle(split or "train")

    evaluation = GroundingEvaluation(
        RecScorer(grounder, group, block, threads=1),
        GrounderFeatures(grounder, group, block, 1, FeatureStore(Folder.of(store / "features"))),
        open_test,
        most=None,
        zero_shot_store=FeatureStore(Folder.of(store / "zero-shot")),
        show=show_nothing,
    )
    for _ in range(2):
        evaluation.add_task()
    return evaluation


def router_of(evaluation: GroundingEvaluation, tasks: int = 2) -> Router:
    """Centres from every other test image: some images go to either task."""
    router = Router(centers_per_task=3, seed=0, modalities=("vision",))
    for task in range(tasks):
        images, _ = evaluation.features.of(evaluation.evaluated[task].chosen.handle, [])
        images = images[::2]
        router.add_task(task, images, images)
    return router


def prompted(evaluation: GroundingEvaluation) -> list[Found]:
    return [judged.prompted for judged in evaluation.evaluated]


def figures(rows: Sequence[MatrixRow]) -> dict[tuple[int, int, str], float]:
    return {(r.trained_index, r.evaluated_index, r.metric): r.value for r in rows if not r.reason}


def every_row(evaluation: GroundingEvaluation, method: StreamMethod) -> list[MatrixRow]:
    router = router_of(evaluation)
    rows = evaluation.zero_shot() + evaluation.after_task(0, method, router.upto(1))
    return rows + evaluation.after_task(1, method, router)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_figures_do_not_depend_on_the_test_batch(
    grounder: Grounder, manifest: Manifest, tmp_path: Path, block: int
) -> None:
    """Prompts chosen per batch, or a neighbour's image, would show here."""
    method = method_of(grounder)
    reference = evaluation_of(grounder, manifest, tmp_path / "reference", 5)
    evaluation = evaluation_of(grounder, manifest, tmp_path, block)
    assert figures(every_row(evaluation, method)) == figures(every_row(reference, method))
    for found, expected in zip(prompted(evaluation), prompted(reference), strict=True):
        torch.testing.assert_close(found.best, expected.best, rtol=1e-3, atol=1e-3, equal_nan=True)
    plain = torch.cat([judged.plain.best for judged in evaluation.evaluated])
    learned = torch.cat([found.best for found in prompted(evaluation)])
    assert not torch.equal(plain, learned), "prompts change nothing: the test would see nothing"


def test_one_worker_and_two_find_the_same_to_the_bit(
    directory: Path, grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    method = method_of(grounder)
    alone = evaluation_of(grounder, manifest, tmp_path / "alone", 5)
    expected = figures(every_row(alone, method))

    def on(group: WorkerGroup) -> tuple[dict[tuple[int, int, str], float], list[Tensor]]:
        with ONE_AT_A_TIME:  # prompts are active in one grounder for one thread at a time
            own = loaded(directory)
        evaluation = evaluation_of(own, manifest, tmp_path / f"{group.rank}", 5, group)
        return figures(every_row(evaluation, method)), [f.best for f in prompted(evaluation)]

    for rows, best in on_threads(2, on):
        assert rows == expected
        for found, of_one in zip(best, prompted(alone), strict=True):
            assert torch.equal(found.nan_to_num(), of_one.best.nan_to_num())


def test_only_what_goes_another_way_is_run_again(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    """After a task, an evaluation costs what its routes change, and finds what a fresh one does."""
    method = method_of(grounder)
    evaluation = evaluation_of(grounder, manifest, tmp_path, 1)
    router = router_of(evaluation)
    evaluation.after_task(0, Counted(method), router.upto(1))  # type: ignore[arg-type]
    before = [judged.found_for.clone() for judged in evaluation.evaluated]
    counted = Counted(method)
    rows = evaluation.after_task(1, counted, router)  # type: ignore[arg-type]
    moved = sum(
        int((old != judged.found_for).sum())
        for old, judged in zip(before, evaluation.evaluated, strict=True)
    )
    assert 0 < counted.asked == moved < 24
    again = Counted(method)
    assert evaluation.after_task(1, again, router) == rows  # type: ignore[arg-type]
    assert again.asked == 0
    fresh = evaluation_of(grounder, manifest, tmp_path, 1)  # as after a restart
    assert fresh.after_task(1, method, router) == rows


def test_a_method_without_a_router_is_judged_anew_after_each_task(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    """Old figures would hide what it forgot."""
    evaluation = evaluation_of(grounder, manifest, tmp_path, 4)
    counted = Counted(method_of(grounder, "vpt"))
    for task in range(2):
        rows = evaluation.after_task(task, counted, None)  # type: ignore[arg-type]
    assert counted.asked == 2 * 24
    assert "route_image" not in {row.metric for row in rows}


def test_the_true_task_is_given_to_the_oracle(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    method = method_of(grounder)
    evaluation = evaluation_of(grounder, manifest, tmp_path, 4)
    everything_to_0 = router_of(evaluation, tasks=1)
    evaluation.after_task(1, method, everything_to_0)
    perfect = evaluation.oracle(1, method)
    for judged in evaluation.evaluated:
        judged.forget()
        judged.prompted = evaluation._found(judged, method, judged.everywhere(judged.index))
    assert evaluation._rows(1, prompted(evaluation)) == perfect


def test_a_stream_that_grew_is_judged_as_if_it_had_been_given_whole(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    method = method_of(grounder)
    evaluation = evaluation_of(grounder, manifest, tmp_path, 4)
    whole = every_row(evaluation, method)
    anew = evaluation.all_rows(method, router_of(evaluation))
    assert figures([row for after in anew for row in after]) == figures(whole)


def test_joined_tasks_are_one_column_and_each_split_is_told_apart(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    """The one column is over all expressions; a split that does not lead is judged at the end."""
    joined = manifest.joined(None).task(JOINED)

    def open_test(task: int, split: str | None = None) -> SplitHandle:
        assert task == 0
        return joined.handle(split or "val")

    evaluation = GroundingEvaluation(
        RecScorer(grounder, ALONE, 5, threads=1),
        GrounderFeatures(grounder, ALONE, 5, 1, FeatureStore(Folder.of(tmp_path / "features"))),
        open_test,
        most=None,
        zero_shot_store=FeatureStore(Folder.of(tmp_path / "zero-shot")),
        show=show_nothing,
    )
    evaluation.add_task()
    method = method_of(grounder)
    method.begin_task(0, grounder)
    rows = evaluation.zero_shot() + evaluation.after_task(0, method, None)
    apart = evaluation.by_split(["val", "test"], method, None)
    assert {row.evaluated_index for row in rows} == {0}
    assert not (tmp_path / "features").exists(), "nothing is routed: features are of no use"
    for phase, trained in (("zero_shot", ZERO_SHOT), ("trained", 0)):
        of_val = {row.metric: row.value for row in rows if row.trained_index == trained}
        assert apart[phase]["val"]["all"] == of_val
        for split in ("val", "test"):
            assert set(apart[phase][split]["per_task"]) == {"disk", "square"}
            assert apart[phase][split]["expressions"] == 6
    assert apart["undefined"] == {}


def test_every_expression_s_rank_is_in_the_table(
    grounder: Grounder, manifest: Manifest, tmp_path: Path
) -> None:
    """Ranks count from 1 there, and an expression without a hit has none."""
    evaluation = evaluation_of(grounder, manifest, tmp_path, 5)
    every_row(evaluation, method_of(grounder))
    table = rec_rank_table(evaluation.evaluated).to_pylist()
    names = [one.chosen.handle.task for one in evaluation.evaluated]
    for phase in ("zero_shot", "after"):
        for one in evaluation.evaluated:
            found = one.plain if phase == "zero_shot" else one.prompted
            rows = [r for r in table if (r["phase"], r["task_index"]) == (phase, one.index)]
            assert [r["query"] for r in rows] == list(range(len(one.chosen)))
            assert [r["text"] for r in rows] == [e.text for e in one.chosen.expressions]
            assert {r["task"] for r in rows} == {names[one.index]}
            for column, name in enumerate(("rank", "rank_giou", "rank_iou60")):
                ranks = [-1 if r[name] is None else r[name] - 1 for r in rows]
                assert ranks == found.ranks[:, column].tolist(), (phase, name)
    assert any(row["rank_iou60"] is None for row in table)
