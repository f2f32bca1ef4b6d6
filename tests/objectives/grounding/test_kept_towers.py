"""Outputs of frozen towers that are computed once: equal to the bit, and never a wrong one."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.data.shards.image_batches import image_batches
from system.data.shards.manifest import JOINED, Manifest, SplitHandle
from system.engine.model_stage import show_nothing
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.grounders.entries import Entries, Reach
from system.grounders.glip.glip import Glip
from system.grounders.grounder import Grounder, GroundingBatch, KeepingGrounder, KeptOutputs
from system.objectives.grounding.chosen_expressions import chosen_expressions
from system.objectives.grounding.grounding_training import GroundingTraining
from system.objectives.grounding.kept_towers import KeptTowers
from system.objectives.grounding.objective import GroundingWork
from system.objectives.grounding.rec_scoring import Found, RecScorer
from system.objectives.objective import OBJECTIVES, Worker
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.storage.kept_rows import KeptFolder
from system.stream.preflight import prepared
from tests.engine.thread_group import ALONE, on_threads
from tests.grounders.small_glip import some_batch
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec
from tests.objectives.grounding.test_grounding_training import trained, training

BLOCK = 5
METHODS = {
    "coop": ("method=coop", "method.context_length=2"),
    "cocoop": ("method=cocoop", "method.context_length=2"),
    "linear_probing": ("method=linear_probing",),
    "vpt": ("method=vpt", "method.prompt_length=2"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    prepare_small_rec(root)
    return root


def towers(
    grounder: Grounder, path: Path, group: WorkerGroup = ALONE, limit: float = 1e9
) -> KeptTowers:
    assert isinstance(grounder, KeepingGrounder)
    folder = KeptFolder(path, limit, pytest.fail, "free space")
    return KeptTowers(grounder, group, BLOCK, 1, folder, show_nothing)


def run_of(root: Path, method: str) -> ExperimentConfig:
    sizes = ("stage.micro_batches=4", "stage.epochs=2")
    return compose(joined_overrides(root, "kept", *sizes, *METHODS[method]))


def learner_of(root: Path, path: Path | None, method: str) -> GroundingTraining:
    return learner_on(run_of(root, method), path)


def learner_on(
    run: ExperimentConfig,
    path: Path | None,
    group: WorkerGroup = ALONE,
    manifest: Manifest | None = None,
) -> GroundingTraining:
    learner = training(run, group, manifest)
    if path is not None:
        learner.towers = towers(learner.grounder, path, group)
    return learner


def judged(learner: GroundingTraining) -> list[Found]:
    """What is found for all test expressions under the method."""
    grounder, method = learner.grounder, learner.method
    scorer = RecScorer(grounder, learner.group, BLOCK, 1, learner.towers)
    handle = prepared(learner.experiment).task(JOINED).handle("test")
    return [
        scorer.score(
            chosen_expressions(part, None),
            show_nothing,
            phase="",
            entries=lambda places, batch, latents: method.entries(
                grounder, batch, torch.zeros(len(places), dtype=torch.long), latents
            ),
            reach=method.reach(grounder),
        )
        for part in handle.members
    ]


def count_passes(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many samples go through each tower from now on."""
    assert isinstance(grounder, Glip)
    counted: Counter[str] = Counter()
    network = grounder.network

    def counting(name: str) -> Any:
        plain = getattr(network, name)

        def call(*args: Any) -> Any:
            counted[name] += len(args[0])
            return plain(*args)

        return call

    for name in ("see", "read"):
        monkeypatch.setattr(network, name, counting(name))
    return counted


def padded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


@pytest.mark.parametrize(
    ("method", "image_once", "text_once"),
    [("coop", True, False), ("linear_probing", True, True), ("vpt", False, True)],
)
def test_a_tower_that_a_method_leaves_alone_runs_once_a_sample(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    image_once: bool,
    text_once: bool,
) -> None:
    """Over two epochs and two evaluations; and not at all in the next trial of a sweep."""
    learner = learner_of(root, tmp_path, method)
    counted = count_passes(learner.grounder, monkeypatch)
    trained(learner)
    for _ in range(2):
        judged(learner)
    joined = prepared(learner.experiment).task(JOINED)
    splits = [
        chosen_expressions(part, None)
        for split in ("train", "test")
        for part in joined.handle(split).members
    ]
    images = sum(padded(len({e.row for e in chosen.expressions})) for chosen in splits)
    texts = sum(padded(len(chosen)) for chosen in splits)
    assert (counted["see"] == images) is image_once, counted
    assert (counted["read"] == texts) is text_once, counted
    again = learner_of(root, tmp_path, method)
    counted = count_passes(again.grounder, monkeypatch)
    trained(again)
    judged(again)
    assert (counted["see"] == 0, counted["read"] == 0) == (image_once, text_once)
    for name, parameter in learner.parameters.items():
        assert torch.equal(parameter, again.parameters[name]), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_learned_and_found_is_what_the_towers_would_give(
    root: Path, tmp_path: Path, method: str
) -> None:
    """The difference is rounding: blocks are of other sizes than batches."""
    plain, kept = learner_of(root, None, method), learner_of(root, tmp_path, method)
    for own, other in zip(trained(plain), trained(kept), strict=True):
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name, parameter in plain.parameters.items():
        torch.testing.assert_close(parameter, kept.parameters[name], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for name, parameter in plain.parameters.items():
            kept.parameters[name].copy_(parameter)
    for found, again in zip(judged(plain), judged(kept), strict=True):
        torch.testing.assert_close(found.best, again.best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("place", ["levels", "regions"])
def test_a_batch_of_kept_outputs_is_the_batch_to_the_bit(
    grounder: KeepingGrounder, place: Any
) -> None:
    """Of the same samples side by side, what is kept changes nothing at all."""
    batch = some_batch(grounder)  # type: ignore[arg-type]
    image, features = grounder.image_outputs(batch.images, None, place)
    assert torch.equal(features, grounder.image_features(batch.images))
    outputs = KeptOutputs(place, image, features, grounder.text_outputs(batch.tokens))
    blank = torch.full((), torch.nan).expand(batch.images.shape)
    kept = GroundingBatch(blank, batch.tokens, batch.targets, kept=outputs)
    for own, other in zip(
        grounder.ground(kept, Entries()), grounder.ground(batch, Entries()), strict=True
    ):
        assert torch.equal(own.boxes, other.boxes)
        assert torch.equal(own.scores, other.scores)
    for name, loss in grounder.losses(batch, Entries()).items():
        assert torch.equal(loss, grounder.losses(kept, Entries())[name]), name


@pytest.mark.parametrize("reach", [Reach("levels", text=False), Reach("regions", text=False)])
def test_kept_outputs_are_those_of_their_block_to_the_bit(
    grounder: KeepingGrounder, manifest: Manifest, tmp_path: Path, reach: Reach
) -> None:
    chosen = chosen_expressions(manifest.task("disk").handle("train"), None)
    kept = towers(grounder, tmp_path)
    split = kept.of(chosen, reach)
    rows = sorted({expression.row for expression in chosen.expressions})[:BLOCK]
    with closing(
        image_batches(
            [chosen.handle],
            [[(0, row) for row in rows]],
            transform=grounder.image_transform(),
            threads=1,
            multiple=grounder.side_multiple,
        )
    ) as batches:
        assert reach.image is not None
        image, features = grounder.image_outputs(next(batches).pixels, None, reach.image)
    texts = [expression.text for expression in chosen.expressions[:BLOCK]]
    words = grounder.text_outputs(grounder.tokenize(texts))
    samples = list(range(len(chosen)))[::-1]
    outputs = kept.outputs([(split, at) for at in samples])
    assert outputs.words is not None
    assert outputs.features is not None
    compared = 0
    for at, sample in enumerate(samples):
        if (row := chosen.expressions[sample].row) in rows:
            place = rows.index(row)
            assert torch.equal(outputs.features[at], features[place])
            for own, made in zip(outputs.image, image, strict=True):
                assert torch.equal(own[at], made[place])
            compared += 1
        if sample < BLOCK:
            length = min(words.shape[1], outputs.words.shape[1])
            assert torch.equal(outputs.words[at, :length], words[sample, :length])
            assert not outputs.words[at, length:].any()
    assert compared >= BLOCK


def test_two_workers_keep_and_learn_what_one_does_to_the_bit(root: Path, tmp_path: Path) -> None:
    run = run_of(root, "coop")
    manifest, alone = prepared(run), learner_on(run, tmp_path / "alone")
    expected = trained(alone)

    def on(group: WorkerGroup) -> tuple[list[dict[str, Any]], GroundingTraining]:
        learner = learner_on(run, tmp_path / "both", group, manifest)
        return trained(learner), learner

    for rows, learner in on_threads(2, on):
        assert rows == expected
        for name, parameter in alone.parameters.items():
            assert torch.equal(parameter, learner.parameters[name]), name


def test_a_split_beyond_the_limit_is_computed_as_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: a full disk must not change what is learned."""
    plain, kept = learner_of(root, None, "coop"), learner_of(root, None, "coop")
    kept.towers = towers(kept.grounder, tmp_path, limit=4200)
    assert trained(plain) == trained(kept)
    assert not list(tmp_path.iterdir())


def test_images_of_many_sizes_are_not_kept(
    grounder: KeepingGrounder, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Swin makes of a padded image depends on the batch by more than rounding."""
    monkeypatch.setattr(grounder, "shape", replace(grounder.shape, level_sides=()))
    chosen = chosen_expressions(manifest.task("disk").handle("train"), None)
    split = towers(grounder, tmp_path).of(chosen, Entries().reach)
    assert split.images is None
    assert split.texts is not None


def test_zero_shot_boxes_of_kept_outputs_are_stored_by_themselves(
    grounder: KeepingGrounder, manifest: Manifest, tmp_path: Path
) -> None:
    """They may differ by rounding: who switches it off gets what was found without."""
    store = FeatureStore(Folder.of(tmp_path / "zero"))
    chosen = chosen_expressions(manifest.task("disk").handle("train"), None)
    for kept in (None, towers(grounder, tmp_path / "kept")):
        RecScorer(grounder, ALONE, BLOCK, 1, kept).frozen(chosen, store, show_nothing)
    assert len(list((tmp_path / "zero").iterdir())) == 2


def test_the_setting_says_whether_towers_are_kept(root: Path) -> None:
    """And where: under the data path, which all runs of a sweep share."""

    def work(*more: str) -> GroundingWork:
        run = compose(joined_overrides(root, "kept", "method.prompt_length=2", *more))

        def no_test(task: int, split: str | None = None) -> SplitHandle:
            raise AssertionError(task, split)

        return GroundingWork(Worker(run, run.inputs, ALONE, no_test, show_nothing))

    kept = work("stage.kept_gb=0.5").kept
    assert kept is not None
    assert (kept.folder.path, kept.folder.limit) == (root / "kept", 5e8)
    assert work("stage.kept_gb=null").kept is None
    with pytest.raises(ConfigError, match=r"kept_gb=0\.0 must be above 0"):
        work("stage.kept_gb=0")


def test_retrieval_refuses_to_keep_a_grounder_s_towers(root: Path) -> None:
    """A setting that does nothing would be believed to."""
    run = compose(["experiment=demo", f"data_path={root}"])
    run = replace(run, stage=replace(run.stage, kept_gb=1.0))
    with pytest.raises(ConfigError, match=r"stage\.kept_gb=1 .*grounding.*null"):
        OBJECTIVES.get("retrieval").check(run)
