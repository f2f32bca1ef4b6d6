"""What a stream saves can be loaded again, and holds no more than is of use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.config.schema import RoutingFeature
from system.errors import AdapterMismatchError
from system.storage.adapters import AdapterFolder, AdapterHeader, task_file
from system.storage.files import Folder
from system.stream.learned_state import LearnedState
from tests.grounders.small_glip import loaded, write_small_glip
from tests.methods.method_parts import backbone, images

TASKS = ("animal", "food", "person")


def header(name: str) -> AdapterHeader:
    return AdapterHeader(
        backbone="clip",
        backbone_fingerprint=backbone().fingerprint,
        method={"name": name},
        benchmark="small",
        benchmark_fingerprint="0",
        protocol="corrected",
        seed=0,
        tasks=TASKS,
        router={"centers": 2},
    )


def learned(name: str, tasks: int) -> LearnedState[Any]:
    """A stream after some tasks, each of which moved the weights."""
    stream = LearnedState(header(name), backbone())
    for task in range(tasks):
        features = torch.ones(2, backbone().shape.feature_width)
        stream.similarities.add(stream.similarity_entry(features, features))
        stream.method.begin_task(task, backbone())
        if stream.method.learns_at(task, len(TASKS)):
            with torch.no_grad():
                for parameter in stream.method.task_parameters(task).values():
                    parameter.add_(0.01)
    return stream


def features(stream: LearnedState[Any]) -> Tensor:
    last = torch.full((5,), stream.known_tasks - 1)
    return stream.method.encode(backbone(), "vision", images(), last)


@pytest.mark.parametrize("name", ["zero_shot", "fine_tune", "joint", "lora"])
def test_a_saved_stream_comes_back(tmp_path: Path, name: str) -> None:
    stream = learned(name, 3)
    stream.save_pretrained(tmp_path)
    loaded = LearnedState.from_pretrained(tmp_path, backbone())
    assert torch.equal(features(loaded), features(stream))
    assert torch.equal(loaded.similarities.matrix(), stream.similarities.matrix())


@pytest.mark.parametrize("routing_feature", ["level_means", "coarsest"])
def test_a_stream_of_boxes_comes_back_by_whatever_it_is_routed(
    tmp_path: Path, routing_feature: RoutingFeature
) -> None:
    """LPI's released code routes by a whole level, which is wider than the means of levels."""
    grounder = loaded(write_small_glip(tmp_path / "glip"))
    grounder.route_by(routing_feature)
    section = {"name": "s_prompts", "prompt_length": 2, "text_prompt_length": 2}
    of_grounder = replace(
        header("s_prompts"),
        backbone=grounder.name,
        backbone_fingerprint=grounder.fingerprint,
        method=section,
    )
    stream = LearnedState(of_grounder, grounder)
    assert stream.router is not None
    found = torch.nn.functional.normalize(torch.randn(4, grounder.routing_width), dim=1)
    texts = torch.ones(4, grounder.shape.feature_width)
    stream.router.add_task(0, found, texts)
    stream.similarities.add(stream.similarity_entry(found, texts))
    stream.method.begin_task(0, grounder)
    stream.save_pretrained(tmp_path / "adapters")
    again = LearnedState.from_pretrained(tmp_path / "adapters", grounder)
    assert again.router is not None
    assert torch.equal(again.router.centers_of(0)["vision"], stream.router.centers_of(0)["vision"])


def test_only_the_newest_file_holds_weights_that_tasks_share(tmp_path: Path) -> None:
    """A copy of the backbone a task would fill the disk, and none of the old ones is ever read."""
    learned("fine_tune", 3).save_pretrained(tmp_path)
    sizes = [(tmp_path / task_file(task)).stat().st_size for task in range(3)]
    weights = 4 * sum(p.numel() for p in backbone().parameters())
    assert max(sizes[:2]) < 1000 < weights < sizes[2]


def test_an_older_copy_that_a_crash_left_does_no_harm(tmp_path: Path) -> None:
    """The file before is rewritten only after the newest one counts: both may have weights."""
    stream = learned("fine_tune", 1)
    older = stream.task_state(0)
    stream = learned("fine_tune", 2)
    stream.save_pretrained(tmp_path)
    AdapterFolder(Folder.of(tmp_path)).save_task(0, older)
    loaded = LearnedState.from_pretrained(tmp_path, backbone())
    assert torch.equal(features(loaded), features(stream))


@pytest.mark.parametrize("name", ["fine_tune", "lora"])
def test_a_folder_without_its_newest_file_is_refused(tmp_path: Path, name: str) -> None:
    """Copied in part, it would evaluate as the untrained backbone."""
    learned(name, 2).save_pretrained(tmp_path)
    (tmp_path / task_file(1)).unlink()
    with pytest.raises(AdapterMismatchError, match="the adapter lacks"):
        LearnedState.from_pretrained(tmp_path, backbone())


def test_joint_training_saves_nothing_before_it_learned(tmp_path: Path) -> None:
    """Its start is the pre-trained weights, which the backbone's own files hold."""
    stream = learned("joint", 2)
    assert [list(stream.task_state(task)) for task in (0, 1)] == [["task_text"]] * 2
    stream.save_pretrained(tmp_path)
    assert LearnedState.from_pretrained(tmp_path, backbone()).method.known_tasks == 0
