"""Metrics: names, labels and which lead, the router's accuracy on each task."""

import math

import torch

from system.results.metrics import GROUNDING, RETRIEVAL, routing_accuracy


def test_names_and_labels_are_unique_and_each_kind_has_metrics_that_lead() -> None:
    """Two of one name would share a column of the tables; without a lead a page has no headline."""
    every = (*RETRIEVAL, *GROUNDING)
    assert len({metric.name for metric in every}) == len(every)
    assert len({metric.label for metric in every}) == len(every)
    assert [metric.name for metric in RETRIEVAL if metric.lead] == ["t2i_r1", "i2t_r1"]
    assert [metric.name for metric in GROUNDING if metric.lead] == ["rec_r1"]


def test_routing_accuracy_is_per_task_and_undefined_where_nothing_could_be_right() -> None:
    values = routing_accuracy(
        torch.tensor([0, 1, 0, 0]),
        torch.tensor([0, 0, 1, 2]),
        tasks=[0, 1, 2, 3],
        learned=[0, 1, 3],
    )
    assert (values[0].value, values[0].queries) == (50.0, 2)
    assert values[1].value == 0.0
    assert math.isnan(values[2].value)
    assert values[2].reason == "the task was not learned yet"
    assert math.isnan(values[3].value)
    assert values[3].reason == "no queries"
