"""`promptide evaluate` without a run: the frozen grounder on files in their published form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from system import app
from tests.data.refcoco_files import write_images, write_mdetr, write_unc

SPLITS = {"train": 1, "val": 2, "testA": 1, "testB": 1}
FORMATS = {
    "mdetr": [],
    "unc": ["benchmark.options.format=unc", "benchmark.options.annotations=refcoco"],
}


def words(root: Path, *more: str) -> list[str]:
    return [
        "evaluate",
        "experiment=rec_refcoco",
        "grounder=tiny_grounder",
        "grounder.selection.threshold=0.05",
        "grounder.images.rule=null",  # its own size
        "grounder.images.side=null",
        f"benchmark.options.root={root}",
        f"data_path={root / 'data'}",
        f"storage_path={root / 'runs'}",
        "run_name=gate",
        *more,
    ]


def write_refcoco(root: Path) -> None:
    instances, refs = write_images(root, SPLITS)
    write_unc(root, instances, refs)
    write_mdetr(root, instances, refs)


@pytest.mark.parametrize("form", FORMATS)
def test_the_zero_shot_figure_comes_before_any_training(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user compares it with the published one, to know that model and data are the paper's."""
    write_refcoco(tmp_path)
    assert app.main(words(tmp_path, *FORMATS[form])) == 0
    printed = capsys.readouterr().out
    assert "is not prepared yet: preparing it" in printed
    folder = tmp_path / "runs/gate/evaluations/rec_refcoco-val-testA-testB"
    assert folder.as_posix() in printed.replace("\n", "")
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    assert metrics["adapters"] is None
    assert metrics["method"] == "zero_shot"
    assert list(metrics["splits"]) == ["val", "testA", "testB"]
    assert metrics["splits"] == metrics["zero_shot"]["splits"]
    counts = {split: found["expressions"] for split, found in metrics["splits"].items()}
    assert counts == {"val": 10, "testA": 5, "testB": 5}
    of_val = metrics["splits"]["val"]["all"]
    assert metrics["average"]["rec_r5"] == of_val["rec_r5"]
    assert metrics["queries"]["rec_r1"] == 10
    assert of_val["rec_r1_giou"] <= of_val["rec_r1"] <= of_val["rec_r5"] <= of_val["rec_ub"]
    for split, found in metrics["splits"].items():
        for measure, suffix in (("IoU", ""), ("GIoU", "_giou")):
            line = [split, measure, ">=", "0.5"] + [
                f"{found['all'][f'{metric}{suffix}']:.1f}"
                for metric in ("rec_r1", "rec_r5", "rec_r10", "rec_ub")
            ]
            assert line in [row.split() for row in printed.splitlines()]
    page = (folder / "report.html").read_text()
    table = page.partition('id="split-testB"')[2].partition("</table>")[0]
    row = table.partition("all expressions, GIoU</th><td>")[2].partition("</td>")[0]
    assert row == f"{metrics['splits']['testB']['all']['rec_r1_giou']:.1f}"
    assert "→" not in table
    assert "after training" not in page
    assert not (tmp_path / "runs/gate/metrics.json").exists(), "a run would take itself for ended"


def test_what_cannot_be_judged_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in a name must not cost the time of all expressions before it."""
    write_refcoco(tmp_path)
    assert app.main(words(tmp_path, "evaluation.split=[val,test]")) == 2
    told = capsys.readouterr().err
    assert "evaluation.split=test: benchmark 'rec_refcoco' has no such split" in told
    assert app.main(words(tmp_path, "evaluation.split=val", "adapters=/nowhere")) == 2
    assert "/nowhere holds no adapter.json" in capsys.readouterr().err


def of_another_coco(root: Path) -> list[str]:
    content = json.loads((root / "refcoco" / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["id"] += 1_000_000
    (root / "others.json").write_text(json.dumps(content))
    return ["benchmark.options.instances=others.json"]


def of_other_images(root: Path) -> list[str]:
    next((root / "train2014").iterdir()).unlink()
    return []


def with_a_span_beyond(root: Path) -> list[str]:
    path = root / "mdetr_annotations" / "finetune_refcoco_testA.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["tokens_positive"] = [[0, 500]]
    path.write_text(json.dumps(content))
    return []


def with_an_unknown_split(root: Path) -> list[str]:
    return ["benchmark.options.splits.testB=[testC]"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_coco, "others.json has no annotation"),
        (of_other_images, "train2014"),
        (
            with_a_span_beyond,
            "testA.json: annotations[0]: field 'tokens_positive'",
        ),
        (with_an_unknown_split, "finetune_refcoco_testC.json does not exist"),
    ],
)
def test_files_that_do_not_fit_are_named_before_anything_is_found(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], list[str]],
    message: str,
) -> None:
    """A figure on other images or words would look like a bad model."""
    write_refcoco(tmp_path)
    assert app.main(words(tmp_path, *spoil(tmp_path))) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_encoder_has_a_zero_shot_figure_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retrieval has the same gate, each split in a folder of its own."""
    write_refcoco(tmp_path)
    more = [
        "benchmark=lpi_refcoco",
        "benchmark.options.tasks=[animal,food]",
        f"benchmark.options.root={tmp_path}",
        f"data_path={tmp_path / 'data'}",
        f"storage_path={tmp_path / 'runs'}",
        "run_name=encoder",
        "evaluation.split=[testA,testB]",
    ]
    assert app.main(["evaluate", "method=zero_shot", *more]) == 0
    printed = capsys.readouterr().out
    for split in ("testA", "testB"):
        folder = tmp_path / f"runs/encoder/evaluations/lpi_refcoco-{split}"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["average"] == metrics["zero_shot"]["average"]
        assert f"lpi_refcoco, split {split}" in printed
        assert "Text → image" in (folder / "report.html").read_text()
