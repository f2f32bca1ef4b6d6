"""The tasks' similarity comes from the source that is asked for, and never from later tasks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import unit
from system.errors import AdapterMismatchError, DataError
from system.methods.base import SimilaritySource
from system.stream.given_similarity import GivenSimilarity
from system.stream.task_similarity import TaskSimilarity
from tests.methods.method_parts import backbone

TASKS = ("dog", "red", "hill", "the")
WIDTH = backbone().shape.feature_width
VALUES = {
    one: {other: 1.0 - abs(i - j) / 4 for j, other in enumerate(TASKS)}
    for i, one in enumerate(TASKS)
}
SOURCES: tuple[SimilaritySource, ...] = ("captions", "names", "images", "matrix")


def features(task: int, seed: int) -> Tensor:
    return unit(torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(10 * seed + task)))


def names_of(names: Sequence[str]) -> Tensor:
    return backbone().name_features(names)


def learned(
    source: SimilaritySource, tasks: tuple[str, ...], *, centred: bool = False
) -> TaskSimilarity:
    found = TaskSimilarity(source, GivenSimilarity("given.csv", VALUES), centred=centred)
    for k in range(len(tasks)):
        entry = found.entry(names_of, tasks[: k + 1], features(k, 1), features(k, 2))
        found.add(entry)
    return found


def cosines(rows: Tensor) -> Tensor:
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows @ rows.T


def test_each_source_is_what_it_says() -> None:
    means = [torch.stack([features(k, s).mean(0) for k in range(4)]) for s in (1, 2)]
    with torch.no_grad():
        names = torch.cat([backbone()("text", backbone().tokenize([t]), None) for t in TASKS])
    expected = {
        "images": cosines(means[0]),
        "captions": cosines(means[1]),
        "names": cosines(names),
        "matrix": torch.tensor([[VALUES[a][b] for b in TASKS] for a in TASKS]),
    }
    for source in SOURCES:
        torch.testing.assert_close(learned(source, TASKS).matrix(), expected[source])


@pytest.mark.parametrize("source", ["captions", "names", "images"])
def test_centred_features_are_compared_by_what_sets_them_apart(source: SimilaritySource) -> None:
    """A part that all tasks share, as on CLIP, would make every pair alike."""
    plain, centred = learned(source, TASKS), learned(source, TASKS, centred=True)
    entries = torch.stack(plain.entries)
    assert torch.equal(entries, torch.stack(centred.entries)), "what is saved stays raw"
    expected = cosines(entries - entries.mean(0))
    torch.testing.assert_close(centred.matrix(), expected, rtol=1e-4, atol=1e-5)
    cone = TaskSimilarity(source), TaskSimilarity(source, centred=True)
    for entry in entries + 20 * entries[0]:  # a narrow cone
        for similarity in cone:
            similarity.add(entry / entry.norm())
    raw, apart = (similarity.matrix() for similarity in cone)
    assert (raw > 0.9).all()
    assert (apart < 0.4).sum() > 0


def test_the_first_two_centred_tasks_are_opposite_and_equal_ones_have_no_direction() -> None:
    """Two points lie on opposite sides of their middle: that says nothing, so they repel."""
    first = learned("captions", TASKS[:1], centred=True).matrix()
    assert torch.equal(first, torch.ones(1, 1))
    two = learned("captions", TASKS[:2], centred=True).matrix()
    torch.testing.assert_close(two, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    equal = TaskSimilarity("captions", centred=True)
    for _ in range(3):
        equal.add(unit(torch.ones(1, WIDTH))[0])
    assert (equal.matrix() - torch.eye(3)).abs().max() < 0.1


def test_a_given_matrix_is_not_centred() -> None:
    plain, centred = learned("matrix", TASKS), learned("matrix", TASKS, centred=True)
    assert torch.equal(plain.matrix(), centred.matrix())


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_tasks_that_have_not_come_do_not_enter(source: SimilaritySource, centred: bool) -> None:
    """As released, all tasks' texts are compared before the first one is learned."""
    begun = TaskSimilarity(source, GivenSimilarity("given.csv", VALUES), centred=centred)
    for entry in learned(source, TASKS).entries[:2]:
        begun.add(entry)
    assert torch.equal(begun.matrix(), learned(source, TASKS[:2], centred=centred).matrix())
    two, four = learned(source, TASKS[:2]), learned(source, TASKS)
    other = learned(source, (*TASKS[:2], "the", "hill"))
    for longer in (four, other):
        torch.testing.assert_close(longer.matrix()[:2, :2], two.matrix())
        assert all(torch.equal(a, b) for a, b in zip(two.entries, longer.entries, strict=False))
    assert two.matrix().shape == (2, 2)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_saved_entries_give_the_same_matrix(source: SimilaritySource, centred: bool) -> None:
    """A run that goes on must compare by the very numbers of one that was never interrupted."""
    before = learned(source, TASKS, centred=centred)
    after = TaskSimilarity(source, centred=centred)
    for k, entry in enumerate(before.entries):
        after.restore(entry, TASKS[: k + 1])
    assert torch.equal(after.matrix(), before.matrix())


def test_another_matrix_than_a_run_began_with_is_refused() -> None:
    """Its first tasks would have been learned by one matrix and the rest by another."""
    changed = {one: dict(row) for one, row in VALUES.items()}
    changed["dog"]["red"] = changed["red"]["dog"] = 0.0
    begun = learned("matrix", TASKS[:2])
    later = TaskSimilarity("matrix", GivenSimilarity("given.csv", changed))
    later.restore(begun.entries[0], TASKS[:1])
    with pytest.raises(AdapterMismatchError, match=r"given\.csv gives task 'red' other"):
        later.restore(begun.entries[1], TASKS[:2])


def test_a_task_that_the_matrix_has_not() -> None:
    with pytest.raises(DataError, match="has no task 'kitchen'"):
        learned("matrix", ("dog", "kitchen"))
