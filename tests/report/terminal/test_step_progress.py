"""Progress of `promptide prepare` and `promptide pretrain` in a log file."""

import io

from rich.console import Console

from system.report.terminal.step_progress import ModelProgress, PrepareProgress, PretrainProgress


class Clock:
    """A second passes with each look."""

    now = 0.0
    pace = 1

    def __call__(self) -> float:
        self.now += self.pace
        return self.now


def test_prepare_writes_ten_lines_a_split_and_the_counts() -> None:
    """Else a long preparation is silent, or a line an image fills the log."""
    file = io.StringIO()
    with PrepareProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        for split, count in (("train", 200), ("test", 3)):
            for done in range(1, count + 1):
                progress.update(split, done, count)
        progress.finish(
            {"food": {"train": 120, "test": 1}, "[b]animal": {"train": 80, "test": 2}},
            {"train": {"other_task": 1200}, "test": {}},
            {
                "box": {"rows": 4, "first": ["a.jpg", "[b].jpg"]},
                "path": {"rows": 1, "first": ["c"]},
            },
        )
    lines = file.getvalue().splitlines()
    assert [line for line in lines if line.startswith("train:")][-1] == "train: 200 of 200"
    assert sum(line.startswith("train:") for line in lines) == 10
    assert sum(line.startswith("test:") for line in lines) == 3
    words = [line.split() for line in lines]
    assert ["food", "120", "1"] in words
    assert ["[b]animal", "80", "2"] in words
    assert ["images", "200", "3"] in words
    assert "left out of train: 1,200 other task" in lines
    assert "quarantined: 4 box: a.jpg, [b].jpg, ..." in lines
    assert "quarantined: 1 path: c" in lines
    assert "\x1b" not in file.getvalue()


def test_pretrain_line_has_loss_and_time_left() -> None:
    """Else nobody can tell whether minutes of pre-training get anywhere."""
    file = io.StringIO()
    with PretrainProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        for step in range(1, 11):
            progress.update(step, 10, 4 / step)
    lines = file.getvalue().splitlines()
    assert lines[4] == "pre-training: 5 of 10, loss 0.8000, about 5 s left"
    assert lines[-1] == "pre-training: 10 of 10, loss 0.4000"


def test_a_model_that_does_not_move_says_so_now_and_then() -> None:
    """A driver looks twice a second, whether or not its workers did anything."""
    looks = ((0, 1), (59, 1), (60, 1), (119, 1), (120, 1), (130, 2), (189, 2))
    clock, file = Clock(), io.StringIO()
    with ModelProgress(Console(file=file, force_terminal=False), clock) as progress:
        for now, done in looks:
            clock.now, clock.pace = now, 0
            progress.show("Mask-VAE", done, 100)
    assert file.getvalue().splitlines() == [
        "Mask-VAE: 1 of 100, no progress for 1 min 00 s",
        "Mask-VAE: 1 of 100, no progress for 2 min 00 s",
    ]
