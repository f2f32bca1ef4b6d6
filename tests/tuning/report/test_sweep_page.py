"""The page of a sweep: complete, self-contained, and safe with any name in it."""

from tests.report.page_reader import PageReader
from tests.tuning.report.sweep_rows import FORKED_SWEEP, trial_row
from tuning.report.certainty import Certainty, RecallCertainty
from tuning.report.sweep_page import render_sweep

SWEEP = {
    "run": "compare",
    "benchmark": "openmoji",
    "tasks": ["a", "b", "c"],
    "metric": ["t2i_r1", "i2t_r1"],
    "seeds": [0, 1],
    "search": "grid",
    "fewer_parameters": False,
    "scheduler": "asha",
    "evaluated_with": "split: test, gallery: all",
    "kind": "stream",
    "figure": {"name": "average recall", "unit": "%"},
    "command": ["experiment=compare"],
}
RATES = {
    "split": "val",
    "metric": ["t2i_r1"],
    "seed": 0,
    "methods": {"lpi": {"chosen": 0.1, "task": "a", "recall": {"0.1": 20.0, "0.3": None}}},
}


TRIALS = [
    trial_row("lpi", 0, [10.0, 20.0, 30.0], "finished"),
    trial_row("lpi", 1, [12.0, 22.0, 34.0], "finished"),
    trial_row("zero_shot", 0, [5.0, 5.0, 5.0], "finished"),
    trial_row("zero_shot", 1, [5.0, 5.0, 5.0], "finished"),
    trial_row("joint", 0, [None, None, 40.0], "finished"),
    trial_row("joint", 1, [None, None, 42.0], "finished"),
    trial_row("<i>weak</i>", 0, [4.0], "stopped"),
    trial_row("<i>weak</i>", 1, [], "stopped"),
    trial_row("broken", 0, [], "failed"),
    trial_row("broken", 1, [], "failed"),
]


def page() -> PageReader:
    return PageReader(render_sweep(SWEEP, TRIALS, RATES, "runs/compare"))


def test_all_trial_configs_and_trials_are_there_best_first() -> None:
    tables = page().tables
    assert [row[0] for row in tables["comparison"][1:]] == [
        "joint",
        "lpi",
        "zero_shot",
        "<i>weak</i>",
        "broken",
    ]
    assert len(tables["trial-table"]) == len(TRIALS) + 1
    assert tables["learning-rates"][1][:2] == ["lpi", "0.1"]


def test_learning_rates_tell_the_tasks_that_they_were_chosen_on() -> None:
    """A list whose best rate is its end may judge a method too low: the page says so."""
    entry = {
        "chosen": 0.9,
        "tasks": ["a", "b"],
        "recall": {"0.3": 20.0, "0.9": 21.0},
        "added": [0.9],
        "at_the_end": True,
    }
    new = render_sweep(SWEEP, TRIALS, RATES | {"methods": {"lpi": entry}}, "runs/compare")
    assert "validation split of the tasks a, b, learned in this order" in new
    assert "an end of what was tried" in PageReader(new).tables["learning-rates"][1][2]
    old = render_sweep(SWEEP, TRIALS, RATES, "runs/compare")
    assert "validation split of the tasks a, learned" in old
    assert "an end of what was tried" not in old


def test_a_fork_names_its_parent_and_has_a_chart_of_its_schedule() -> None:
    read = PageReader(render_sweep(SWEEP | {"seeds": [0]}, FORKED_SWEEP, None, "runs/pbt"))
    names = [row[0] for row in read.tables["comparison"][1:]]
    assert names[0].startswith("lpi-002")
    assert "weight=[0.1, 0.1, 0.125]" in names[0]
    assert ["from lpi-000 after 2 tasks" in name for name in names] == [True, False, False]
    assert "data-schedules" in read.data
    assert "data-schedules" not in page().data


def test_nothing_is_loaded_and_no_name_becomes_markup() -> None:
    read = page()
    assert not [link for link in read.references if not link.startswith(("#", "data:"))]
    assert not read.handlers
    assert "b" not in read.tags
    assert "i" not in read.tags
    assert "<b>diverged</b>" in read.text


def test_a_sweep_without_a_finished_trial_has_a_page_too() -> None:
    read = PageReader(render_sweep(SWEEP, TRIALS[-2:], None, "runs/compare"))
    assert "2 failed" in read.text


def test_intervals_and_differences_are_on_the_page() -> None:
    found = RecallCertainty(600, 32.0, (30.5, 33.4), -2.0, (-3.1, -0.9))
    recalls = {"t2i_r1": found, "i2t_r1": found}
    certainty = Certainty("joint", {"lpi": recalls, "joint": recalls}, {"zero_shot": "no ranks"})
    read = PageReader(render_sweep(SWEEP, TRIALS, RATES, "runs/compare", certainty))
    headers, *rows = read.tables["intervals"]
    assert headers == ["trial config", "t2i R@1", "to joint", "i2t R@1", "to joint"]
    assert [row[0] for row in rows] == ["joint", "lpi"]
    assert rows[1][1] == "32.0 [30.5, 33.4]"
    assert "paired query by query" in read.text
    assert "No interval for zero_shot: no ranks." in read.text
    assert "intervals" not in page().tables
