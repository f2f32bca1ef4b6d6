"""The page of a sweep: complete, self-contained, and safe with any name in it."""

from typing import Any

from system.results.recall import METRICS as RECALLS
from tests.report.page_reader import PageReader
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


def trial(setting: str, seed: int, figures: list[float | None], status: str) -> dict[str, Any]:
    done = status == "finished"
    row: dict[str, Any] = {
        "trial": f"{setting}-{seed}",
        "setting": setting,
        "method": setting,
        "values": "{}",
        "overrides": ["method=x"],
        "learning_rate": None if setting == "zero_shot" else 0.1,
        "seed": seed,
        "status": status,
        "tasks_done": len(figures),
        "reason": "<b>diverged</b>" if status == "failed" else None,
        "figure": figures[-1] if done else None,
        "figure_by_task": figures,
        "trainable_parameters": 0 if setting == "zero_shot" else 500,
        "trainable_parameters_per_task": 100,
        "seconds": 3.0 if done else None,
        "seconds_per_task": 1.0 if done else None,
    }
    for section in ("average", "forgetting", "zero_shot"):
        row |= {f"{section}_{metric}": 10.0 if done else None for metric in RECALLS}
    return row


TRIALS = [
    trial("lpi", 0, [10.0, 20.0, 30.0], "finished"),
    trial("lpi", 1, [12.0, 22.0, 34.0], "finished"),
    trial("zero_shot", 0, [5.0, 5.0, 5.0], "finished"),
    trial("zero_shot", 1, [5.0, 5.0, 5.0], "finished"),
    trial("joint", 0, [None, None, 40.0], "finished"),
    trial("joint", 1, [None, None, 42.0], "finished"),
    trial("<i>weak</i>", 0, [4.0], "stopped"),
    trial("<i>weak</i>", 1, [], "stopped"),
    trial("broken", 0, [], "failed"),
    trial("broken", 1, [], "failed"),
]


def page() -> PageReader:
    return PageReader(render_sweep(SWEEP, TRIALS, RATES, "runs/compare"))


def test_all_settings_and_trials_are_there_best_first() -> None:
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


def test_curves_are_means_over_seeds_and_end_where_the_trials_ended() -> None:
    traces = [t for t in page().data["data-curves"]["data"] if t.get("name")]
    curves = {t["name"]: (t["x"], t["y"]) for t in traces}
    assert curves["lpi"] == ([1, 2, 3], [11.0, 21.0, 32.0])
    assert curves["joint"] == ([3], [41.0])
    assert "broken" not in curves
    assert curves["&lt;i&gt;weak&lt;/i&gt;"] == ([1], [4.0])


def test_a_fork_is_told_of_and_starts_where_it_left_its_parents_line() -> None:
    """What it took over is the parent's line: drawn twice, it would look learned twice."""
    parent = trial("lpi-000", 0, [10.0, 20.0, 30.0], "finished")
    fork = trial("lpi-002", 0, [10.0, 20.0, 35.0], "finished")
    fork |= {"parent": "lpi-000", "forked_after": 2, "values": '{"weight": [0.1, 0.1, 0.125]}'}
    ended = trial("lpi-001", 0, [9.0, 12.0], "stopped")
    trials = [parent | {"values": '{"weight": 0.1}'}, ended | {"values": '{"weight": 1.0}'}, fork]
    read = PageReader(render_sweep(SWEEP | {"seeds": [0]}, trials, None, "runs/pbt"))
    names = [row[0] for row in read.tables["comparison"][1:]]
    assert names[0].startswith("lpi-002")
    assert "weight=[0.1, 0.1, 0.125]" in names[0]
    assert ["from lpi-000 after 2 tasks" in name for name in names] == [True, False, False]
    curves = {t["name"]: t["x"] for t in read.data["data-curves"]["data"] if t.get("name")}
    assert curves == {"lpi-000": [1, 2, 3], "lpi-001": [1, 2], "lpi-002": [2, 3]}
    assert "starts later" in read.text
    # After the two tasks that all finished, the fork has the figure of its parent's weight.
    points = [t for t in read.data["data-values"]["data"] if t.get("mode") == "markers"]
    assert points[0]["x"] == [0.1, 1.0]
    values = {t["name"]: (t["x"], t["y"]) for t in read.data["data-schedules"]["data"]}
    assert values["lpi-000"] == ([1, 2, 3], [0.1, 0.1, 0.1])
    assert values["lpi-001"] == ([1, 2], [1.0, 1.0])
    assert values["lpi-002"] == ([2, 3], [0.1, 0.125])
    assert "starts later" not in page().text
    assert "data-schedules" not in page().data


def test_parameters_of_nothing_have_a_place_on_a_log_axis() -> None:
    traces = page().data["data-parameters"]["data"]
    assert {t["name"]: t["x"] for t in traces}["zero_shot"] == [1]


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
