"""Evaluation of the stream: per sample, once a sample, whatever the batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from system.backbones.clip import load_clip
from system.backbones.dual_encoder import MODALITIES, DualEncoder
from system.data.shards.loading import read_images, read_texts
from system.data.shards.manifest import Manifest, SplitHandle
from system.engine.encoding import Encoder
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from system.objectives.retrieval.retrieval_evaluation import StreamEvaluation, TestSet
from system.objectives.retrieval.retrieval_rank_table import retrieval_rank_table
from system.results.accuracy_matrix import MatrixRow
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.stream.router import Router
from tests.backbones.small_clip import write_small_clip
from tests.data.coco_files import prepare_coco, write_coco
from tests.engine.thread_group import ALONE, on_threads
from tests.results.naive_ranks import naive_retrieval_ranks

TEST_IMAGES = 11  # a task: no multiple of any block


@dataclass(frozen=True)
class Small:
    """A prepared benchmark of two tasks and a random backbone."""

    manifest: Manifest
    backbone: DualEncoder
    root: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("evaluation")
    manifest = prepare_coco(
        write_coco(root / "coco", {"train": 8, "test": TEST_IMAGES}), str(root / "shards")
    )
    words = [str(i) for i in range(100)]
    return Small(manifest, load_clip(str(write_small_clip(root / "clip", words))), root)


def _evaluation(
    small: Small,
    block: int,
    open_test: Callable[[int], SplitHandle] | None = None,
    group: WorkerGroup = ALONE,
) -> StreamEvaluation:
    def plain_open(task: int) -> SplitHandle:
        return small.manifest.tasks[task].handle("test")

    open_test = open_test or plain_open
    tests = TestSet.read(open_test, 2)
    encoder = Encoder(small.backbone, group, block, threads=1)
    transform = small.backbone.image_transform()
    evaluation = StreamEvaluation(tests, encoder, transform, "all", open_test)
    store = FeatureStore(Folder.of(small.root / f"features-{block}-{group.size}"))
    evaluation.prepare(store, encoder.feature_key(tests.handles))
    return evaluation


def _method(small: Small) -> StreamMethod:
    section = {"name": "lpi", "prompt_length": 2}
    method = build_method(section, RetrievalSetting(small.backbone.shape, 0))
    method.begin_task(0, small.backbone)
    method.begin_task(1, small.backbone)
    return method


def _router(evaluation: StreamEvaluation) -> Router:
    """Centres from the test features themselves: some samples go to either task."""
    router = Router(centers_per_task=2, seed=0)
    for task in range(2):
        own = {m: evaluation.tests.tasks_of(m) == task for m in MODALITIES}
        router.add_task(
            task, evaluation.plain["vision"][own["vision"]], evaluation.plain["text"][own["text"]]
        )
    return router


def _figures(rows: list[MatrixRow]) -> dict[tuple[int, str], float]:
    return {(row.evaluated_index, row.metric): row.value for row in rows if row.reason is None}


def test_figures_do_not_depend_on_the_test_batch(small: Small) -> None:
    """A prompt chosen per batch, or rounding per batch, would show here."""
    seen = []
    for block in (1, 7, 64):
        evaluation = _evaluation(small, block)
        rows = evaluation.after_task(1, _method(small), _router(evaluation))
        seen.append((_figures(evaluation.zero_shot()), _figures(rows)))
    assert len(seen[0][1]) == 2 * 10
    assert seen[0] == seen[1] == seen[2]


def test_figures_do_not_depend_on_the_order_of_the_test_rows(small: Small) -> None:
    """Rows are encoded in blocks: which others share a block must not matter."""
    evaluation = _evaluation(small, 7)
    method, router = _method(small), _router(evaluation)
    evaluation.after_task(1, method, router)
    whole = evaluation.prompted["vision"].clone()
    chosen = torch.zeros(len(whole), dtype=torch.bool)
    chosen[::3] = True
    routes = evaluation.route("vision", router, 1)
    part = evaluation._images(chosen, (method, routes))
    torch.testing.assert_close(part, whole[chosen], rtol=0, atol=1e-6)


def test_only_samples_whose_route_changed_are_encoded_again(small: Small) -> None:
    """That is what makes evaluation after task T cost one task, not T."""
    evaluation = _evaluation(small, 8)
    method, router = _method(small), _router(evaluation)
    evaluation.after_task(1, method, router)
    encoded: list[int] = []
    original = evaluation._encode

    def counted(modality, chosen, method, tasks):  # type: ignore[no-untyped-def]
        encoded.append(int(chosen.sum()))
        return original(modality, chosen, method, tasks)

    evaluation._encode = counted  # type: ignore[method-assign]
    again = evaluation.after_task(1, method, router)
    assert encoded == [0, 0]
    assert _figures(again)


def test_the_oracle_uses_each_samples_own_prompts(small: Small) -> None:
    """It separates what prompts can do from what routing loses."""
    evaluation = _evaluation(small, 8)
    method, router = _method(small), _router(evaluation)
    evaluation.after_task(1, method, router)
    oracle = _figures(evaluation.oracle(1, method))

    class TrueTask(Router):
        def route(self, modality, features):  # type: ignore[no-untyped-def]
            return evaluation.tests.tasks_of(modality)

    told = _evaluation(small, 8)
    rows = told.after_task(1, method, TrueTask())
    recalls = {key: v for key, v in _figures(rows).items() if not key[1].startswith("route")}
    assert recalls == oracle


def test_stored_features_are_read_and_not_computed_again(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unprompted features are shared by every run on the same rows and backbone."""
    first = _evaluation(small, 16)

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("the backbone was asked although the store holds the features")

    monkeypatch.setattr(small.backbone, "encode_image", refuse)
    monkeypatch.setattr(small.backbone, "encode_text", refuse)
    second = _evaluation(small, 16)
    for modality in MODALITIES:
        assert torch.equal(first.plain[modality], second.plain[modality])


def test_growing_galleries_have_a_zero_shot_of_their_own(small: Small) -> None:
    """The frozen backbone is compared with the last row, and forward transfer with its own."""
    evaluation = _evaluation(small, 16)
    everywhere = _figures(evaluation.zero_shot())
    assert evaluation.zero_shot_before() is None
    evaluation.gallery = "task"
    alone = _figures(evaluation.zero_shot())
    evaluation.gallery = "seen"
    assert _figures(evaluation.zero_shot()) == everywhere
    before = evaluation.zero_shot_before()
    assert before is not None
    found = _figures(before)
    assert found == {
        key: (alone if key[0] == 0 else everywhere)[key] for key in everywhere if key in found
    }
    assert {row.evaluated_index for row in before} == {0, 1}
    assert any(alone[0, metric] != everywhere[0, metric] for _, metric in alone)


def test_every_query_s_rank_is_in_the_table(small: Small) -> None:
    """Whoever computes a metric of their own finds the query, its image and what it searched."""
    evaluation = _evaluation(small, 16)
    method, router = _method(small), _router(evaluation)
    evaluation.after_task(1, method, router)
    names = [task.name for task in small.manifest.tasks]
    table = retrieval_rank_table(evaluation, names).to_pylist()
    tests = evaluation.tests
    texts, images = len(tests.captions), len(tests.image_task)
    assert len(table) == 2 * (texts + images)
    keys = [(r["phase"], r["direction"], r["task"], r["query"]) for r in table]
    assert len(set(keys)) == len(keys)
    ids = {
        name: [row.image_id for row in read_images(handle, range(handle.rows))]
        for name, handle in zip(names, tests.handles, strict=True)
    }
    captions = {name: read_texts(h) for name, h in zip(names, tests.handles, strict=True)}
    for row in table:
        assert row["image_id"] == ids[row["task"]][row["row"]]
        assert (row["task"], row["split"]) == (names[row["task_index"]], "test")
        own = captions[row["task"]][row["row"]]
        if row["direction"] == "t2i":
            assert row["text"] in own
            assert (row["right"], row["gallery"]) == (1, images)
        else:
            assert row["text"] is None
            assert (row["right"], row["gallery"]) == (len(own), texts)
            assert row["query"] == row["row"]
    for task, name in enumerate(names):  # a text's number is its place in the split
        wanted = ("after", "t2i", name)
        asked = [r for r in table if (r["phase"], r["direction"], r["task"]) == wanted]
        every = [text for row in captions[name] for text in row]
        assert [r["text"] for r in sorted(asked, key=lambda r: r["query"])] == every, task
    prompted = evaluation.prompted["vision"], evaluation.prompted["text"]
    of_tests = tests.image_of_text, tests.image_task
    naive = naive_retrieval_ranks(*prompted, *of_tests, tasks=range(2), gallery="all")
    rank = torch.cat([one.ranks for one in naive if one.direction == "t2i"])
    found = [r["rank"] for r in table if (r["phase"], r["direction"]) == ("after", "t2i")]
    assert found == rank.tolist()


def test_one_pass_finds_what_two_find_and_decodes_once(small: Small) -> None:
    """Adapters that are evaluated know all routes: decoding twice would take half of the time."""
    once = _evaluation(small, 5)
    method, router = _method(small), _router(once)
    expected = once.after_task(1, method, router), once.zero_shot()
    opened: list[int] = []

    def open_test(task: int) -> SplitHandle:
        opened.append(task)
        return small.manifest.tasks[task].handle("test")

    evaluation = _evaluation(small, 5, open_test)  # reads the texts, and features from the store
    evaluation.prepare(FeatureStore(Folder.of(small.root / "none yet")), "key", later=True)
    opened.clear()
    assert (evaluation.after_task(1, method, router), evaluation.zero_shot()) == expected
    assert opened == [0, 1]
    for modality in MODALITIES:
        assert torch.equal(evaluation.plain[modality], once.plain[modality])
        assert torch.equal(evaluation.prompted[modality], once.prompted[modality])
        assert torch.equal(evaluation.encoded_for[modality], once.encoded_for[modality])


def test_every_worker_finds_what_one_alone_finds(small: Small) -> None:
    """Workers that share encodes and scores would end with other figures, or wait for ever."""

    def rows(group: WorkerGroup) -> list[list[MatrixRow]]:
        # Each worker has a model of its own: prompts enter it by hooks.
        own = replace(small, backbone=load_clip(str(small.root / "clip")))
        evaluation = _evaluation(own, 4, group=group)
        method, router = _method(own), _router(evaluation)
        after = evaluation.after_task(1, method, router)
        return [evaluation.zero_shot(), after, evaluation.oracle(1, method)]

    expected = rows(ALONE)
    assert on_threads(3, rows) == [expected] * 3
