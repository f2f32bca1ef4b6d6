"""What a grounder finds in a split does not depend on who looks, in which order or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest
import torch
from torch import Tensor

from system.config.schema import SelectionConfig
from system.data.shards.images import decode_image
from system.data.shards.loading import read_images
from system.data.shards.split_objects import read_expressions
from system.engine.model_stage import show_nothing
from system.engine.worker_group import WorkerGroup
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.grounders.grounding_dino import load_grounding_dino
from system.methods.base import GroundingSetting, Method, build_task_method
from system.objectives.grounding.chosen_expressions import ChosenExpressions, expression_tokens
from system.objectives.grounding.rec_scoring import Found, RecScorer
from system.results.rec import box_overlap
from system.results.rec_recalls import OVERLAPS
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from tests.diff_prompt.mask_files import prepare_shapes
from tests.engine.thread_group import ALONE, on_threads
from tests.grounders.small_grounding_dino import write_small_grounding_dino

#: The library loads a model under switches of the whole process, which these threads share.
ONE_AT_A_TIME = Lock()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_grounding_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> ChosenExpressions:
    manifest = prepare_shapes(tmp_path_factory.mktemp("shapes"))
    handle = manifest.task("disk").handle("train")
    expressions = list(read_expressions(handle))
    return ChosenExpressions(handle, range(len(expressions)), expressions)


def vpt(grounder: Grounder) -> Method:
    section = {"name": "vpt", "prompt_length": 2, "init_std": 1.0}
    return build_task_method(section, GroundingSetting(grounder.shape, 0))


def score(
    directory: Path, chosen: ChosenExpressions, group: WorkerGroup, block: int, *, prompted: bool
) -> Found:
    with ONE_AT_A_TIME:
        grounder = load_grounding_dino(str(directory))
    method = vpt(grounder)
    scorer = RecScorer(grounder, group, block, threads=1)

    def entries(_: Sequence[int], batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return method.entries(grounder, batch, latents)

    return scorer.score(chosen, show_nothing, phase="test", entries=entries if prompted else None)


def test_one_worker_and_two_find_the_same_to_the_bit(
    directory: Path, chosen: ChosenExpressions
) -> None:
    """12 expressions in blocks of 5: the last block is filled up, on one of the two."""
    alone = score(directory, chosen, ALONE, 5, prompted=True)
    both = on_threads(2, lambda group: score(directory, chosen, group, 5, prompted=True))
    for found in both:
        assert torch.equal(found.ranks, alone.ranks)
        assert torch.equal(found.best, alone.best)
    assert len(alone.ranks) == 12
    assert not torch.equal(alone.best, score(directory, chosen, ALONE, 5, prompted=False).best)


def test_blocks_and_order_change_no_figure(directory: Path, chosen: ChosenExpressions) -> None:
    """A prompt or an image that slips to a neighbour would show here."""
    backwards = ChosenExpressions(
        chosen.handle, list(chosen.samples)[::-1], list(chosen.expressions)[::-1]
    )
    whole = score(directory, chosen, ALONE, 64, prompted=True)
    single = score(directory, backwards, ALONE, 1, prompted=True)
    torch.testing.assert_close(whole.best, single.best.flip(0), rtol=1e-3, atol=1e-3)
    assert torch.equal(whole.ranks, single.ranks.flip(0))


def test_ranks_are_those_of_boxes_looked_up_one_by_one(
    directory: Path, chosen: ChosenExpressions
) -> None:
    """The slow twin: one image, one expression, every box by hand."""
    grounder = load_grounding_dino(str(directory))
    found = score(directory, chosen, ALONE, 5, prompted=False)
    transform = grounder.image_transform()
    rows = read_images(chosen.handle, [e.row for e in chosen.expressions])
    for index, (expression, row) in enumerate(zip(chosen.expressions, rows, strict=True)):
        image = transform(decode_image(row.image, row.file_name), None)
        batch = GroundingBatch(image[None], grounder.tokenize([expression.text]))
        (scored,) = grounder.ground(batch, Entries())
        target = torch.tensor(expression.box)
        for column, (overlap, least) in enumerate(OVERLAPS):
            hits = [
                place
                for place, box in enumerate(scored.boxes)
                if float(box_overlap(box, target, overlap)) >= least
            ]
            assert int(found.ranks[index, column]) == (hits[0] if hits else -1)


def test_spans_and_selection_change_what_is_found_and_where_it_is_kept(
    directory: Path, chosen: ChosenExpressions, tmp_path: Path
) -> None:
    """Ranks of other words or of all boxes would be read from an earlier run's store."""
    told = replace(chosen, expressions=[replace(e, spans=((4, 8),)) for e in chosen.expressions])
    grounder = load_grounding_dino(str(directory))
    store = FeatureStore(Folder.of(tmp_path))
    scorer = RecScorer(grounder, ALONE, 5, threads=1)
    grounder.spans_count = False
    assert expression_tokens(grounder, told.expressions).positive is None
    plain = scorer.frozen(told, store, show_nothing)
    assert torch.equal(plain.best, scorer.score(chosen, show_nothing, phase="test").best)
    grounder.spans_count = True
    assert expression_tokens(grounder, told.expressions).positive is not None
    spans = scorer.frozen(told, store, show_nothing)
    assert not torch.equal(spans.best, plain.best)
    grounder.select(SelectionConfig(threshold=0.999))
    few = scorer.frozen(told, store, show_nothing)
    nowhere = few.best.isnan().any(dim=1)
    assert nowhere.any()
    assert not spans.best.isnan().any()
    assert (few.ranks[nowhere] == -1).all()


def test_any_of_an_expressions_boxes_is_a_hit(directory: Path, chosen: ChosenExpressions) -> None:
    """Counted by its first box alone, "two men" would be missed where the second is found."""
    grounder = load_grounding_dino(str(directory))
    scorer = RecScorer(grounder, ALONE, 5, threads=1)
    plain = scorer.score(chosen, show_nothing, phase="test")
    second = [
        replace(e, others=(tuple(best.tolist()),))
        for e, best in zip(chosen.expressions, plain.best, strict=True)
    ]
    found = scorer.score(replace(chosen, expressions=second), show_nothing, phase="test")
    assert (plain.ranks[:, 0] != 0).any()
    assert (found.ranks == 0).all()
