"""Expressions whose object a grounder does not read: counted and named before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from system.config.compose import compose
from system.data.shards.manifest import Manifest, SplitHandle
from system.errors import DataError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.grounders.grounding_dino import load_grounding_dino
from system.objectives.grounding import chosen_expressions as chosen_expressions_module
from system.objectives.grounding import unread_words as unread_words_module
from system.objectives.grounding.chosen_expressions import (
    ChosenExpressions,
    chosen_expressions,
    count_chosen,
)
from system.objectives.grounding.objective import OBJECTIVE
from system.objectives.grounding.unread_words import unread_notes, unread_words
from tests.grounders.small_glip import loaded, write_small_glip
from tests.grounders.small_grounding_dino import write_small_grounding_dino

WORDS = ["the", "disk", "square", "red"]


@pytest.fixture(scope="module", params=["glip", "dino"])
def grounder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    folder = tmp_path_factory.mktemp("grounder")
    if request.param == "glip":
        return loaded(write_small_glip(folder, WORDS))
    return load_grounding_dino(str(write_small_grounding_dino(folder)))


def written(
    manifest: Manifest, *texts: tuple[str, tuple[tuple[int, int], ...]]
) -> ChosenExpressions:
    """Expressions of a split with other texts and spans."""
    chosen = chosen_expressions(manifest.task("disk").handle("train"), len(texts))
    expressions = [
        replace(expression, text=text, spans=spans)
        for expression, (text, spans) in zip(chosen.expressions, texts, strict=True)
    ]
    return replace(chosen, expressions=expressions)


def test_what_is_not_read_is_counted_by_its_reason(grounder: Grounder, manifest: Manifest) -> None:
    """Silently all words would count, or none: neither shows in a metric."""
    long = "the red " * grounder.shape.context_length
    end = (len(long), len(long) + 4)
    found = unread_words(
        grounder,
        [
            written(
                manifest,
                ("the disk", ()),
                ("the red disk", ((8, 12),)),
                ("the   disk", ((4, 5),)),
                ("the disk", ((40, 44),)),
                (f"{long}disk", ()),
                (f"{long}disk", ((4, 7),)),
                (f"{long}disk", (end,)),
            )
        ],
    )
    assert (found.no_word.count, found.lost.count, found.cut.count) == (2, 1, 3)
    assert found.counts() == {
        "expressions_cut": 3,
        "expressions_with_object_cut": 1,
        "expressions_with_spans_of_no_word": 2,
    }
    wrong, lost, cut = found.notes()
    assert "2 expressions" in wrong
    assert "task 'disk', split 'train', row" in wrong
    assert "'the   disk', spans [[4, 5]]" in wrong
    assert str(list(end)) in lost
    assert f"{grounder.shape.context_length} tokens" in cut


def test_a_text_of_exactly_the_context_is_read_whole(
    grounder: Grounder, manifest: Manifest
) -> None:
    added = grounder.token_counts(["red"])[0] - 1
    full = " ".join(["red"] * (grounder.shape.context_length - added))
    assert grounder.token_counts([full]) == [grounder.shape.context_length]
    assert grounder.tokenize([full]).mask.sum() == grounder.shape.context_length
    assert not unread_words(grounder, [written(manifest, (full, ()))]).notes()
    assert unread_words(grounder, [written(manifest, (f"{full} red", ()))]).cut.count == 1


def test_where_all_words_count_no_span_is_wrong(grounder: Grounder, manifest: Manifest) -> None:
    grounder.spans_count = False
    try:
        assert not unread_words(grounder, [written(manifest, ("the disk", ((40, 44),)))]).notes()
    finally:
        grounder.spans_count = True


def test_an_expression_without_a_word_is_named_before_training(
    grounder: Grounder, manifest: Manifest
) -> None:
    """It would end a run in the middle of an epoch."""
    with pytest.raises(DataError, match=r"task 'disk', split 'train', row \d+: '"):
        unread_words(grounder, [written(manifest, ("the disk", ()), ("  ", ()))])


def test_spans_of_no_word_find_nothing_and_their_loss_is_finite(grounder: Grounder) -> None:
    """As with GLIP's released code; the matching of DINO's loss divides by the number of words."""
    texts, spans = ["the red disk", "the red disk"], [[(8, 12)], [(40, 44)]]
    tokens = grounder.tokenize(texts, spans)
    assert tokens.positive is not None
    assert tokens.positive.any(dim=1).tolist() == [True, False]
    size = grounder.shape.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([[0.2, 0.2, 0.8, 0.7]])] * 2
    batch = GroundingBatch(images, tokens, boxes)
    grounder.select(replace(grounder.selection, threshold=1e-6))
    named, unnamed = grounder.ground(batch, Entries())
    grounder.select(replace(grounder.selection, threshold=0.0))
    assert len(named.boxes)
    assert not len(unnamed.boxes)
    for name, loss in grounder.losses(batch, Entries()).items():
        assert torch.isfinite(loss).all(), name


def test_a_run_says_so_before_it_starts(
    manifest: Manifest, grounder: Grounder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Training and each evaluated split are looked through, no other one."""
    seen = []

    def spoiled(handle: object, most: int | None) -> ChosenExpressions:
        chosen = chosen_expressions(handle, most)  # type: ignore[arg-type]
        seen.append((chosen.handle.split, len(chosen)))
        first = replace(chosen.expressions[0], spans=((90, 91),))
        return replace(chosen, expressions=[first, *chosen.expressions[1:]])

    monkeypatch.setattr(unread_words_module, "chosen_expressions", spoiled)
    monkeypatch.setattr(unread_words_module, "_NOTES", {})
    experiment = compose(
        [
            "experiment=rec_stream",
            "stage.train_expressions=5",
            "evaluation.expressions=3",
            "evaluation.split=test",
        ]
    )
    (line,) = OBJECTIVE.check_inputs(experiment, manifest, ["disk", "square"], grounder)
    assert line.startswith("4 expressions with spans that cover no word")
    assert "split 'test'" in line
    assert sorted(seen) == [("test", 3), ("test", 3), ("train", 5), ("train", 5)]


def test_the_same_splits_are_read_once_for_many_trial_configs(
    grounder: Grounder, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of 23 methods read all expressions 46 times before its first trial."""
    handle, reads = manifest.task("disk").handle("train"), []

    def counted(handle: SplitHandle, most: int | None) -> ChosenExpressions:
        reads.append((handle, most))
        return chosen_expressions(handle, most)

    for place in (unread_words_module, chosen_expressions_module):
        monkeypatch.setattr(place, "chosen_expressions", counted)
    monkeypatch.setattr(unread_words_module, "_NOTES", {})
    count_chosen.cache_clear()
    for _ in range(3):
        assert unread_notes(grounder, [(handle, 3), (handle, 4)]) == ()
        assert count_chosen(handle, 3) == 3
    assert reads == [(handle, 3), (handle, 4), (handle, 3)]
    monkeypatch.setattr(grounder, "spans_count", not grounder.spans_count)
    unread_notes(grounder, [(handle, 3)])
    assert len(reads) == 4, "whether spans count is another question"
