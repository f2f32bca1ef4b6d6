"""Rows differ from the release, splits leak into each other, or errors mislead, if these fail."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from rich.console import Console

from system.cli.prepare import prepare_benchmark
from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.manifest import Manifest
from system.data.shards.split_objects import read_expressions
from system.errors import ConfigError, DataError
from tests.data.refcoco_files import (
    SPLITS,
    TASKS,
    prepare,
    rows,
    write_images,
    write_mdetr,
    write_unc,
)


def naive_rows(
    instances: dict[str, Any], refs: list[dict[str, Any]], task: str, theirs: set[str]
) -> dict[int, list[tuple[list[float], str, list[str]]]]:
    """By image: each referred object's box, category and texts, by one plain pass per object."""
    category = {c["id"]: c for c in instances["categories"]}
    found: dict[int, list[tuple[list[float], str, list[str]]]] = {}
    for ref in refs:
        (annotation,) = (a for a in instances["annotations"] if a["id"] == ref["ann_id"])
        own = category[annotation["category_id"]]
        if ref["split"] in theirs and own["supercategory"] == task:
            texts = [sentence["sent"] for sentence in ref["sentences"]]
            found.setdefault(ref["image_id"], []).append((annotation["bbox"], own["name"], texts))
    return found


@pytest.mark.parametrize("form", ["unc", "unc, python 3", "mdetr", "mdetr, generic"])
def test_rows_agree_with_a_plain_reading_of_the_release(tmp_path: Path, form: str) -> None:
    """Whichever files the researcher has, the benchmark is the same."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs, python=3 if "python 3" in form else 2)
    changes: dict[str, Any] = {}
    if form.startswith("mdetr"):
        generic = "generic" in form
        write_mdetr(tmp_path, instances, refs, masks=not generic, generic=generic)
        changes = {"format": "mdetr"}
        if generic:
            changes["instances"] = "refcoco/instances.json"
    manifest = prepare(tmp_path, **changes)
    annotations = {(*a["bbox"], a["image_id"]): a for a in instances["annotations"]}
    seen = 0
    for task in TASKS:
        for split, theirs in (("train", {"train"}), ("test", {"testA", "testB"})):
            expected = naive_rows(instances, refs, task, theirs)
            got = rows(manifest, task, split)
            assert [int(row["image_id"]) for row in got] == list(expected)
            for row in got:
                seen += 1
                assert (row["width"], row["height"]) == (40, 32)
                assert row["image"] == (tmp_path / "train2014" / row["file_name"]).read_bytes()
                objects = expected[int(row["image_id"])]
                assert row["boxes"] == [box for box, _, _ in objects]
                assert row["categories"] == [name for _, name, _ in objects]
                texts = [(i, text) for i, (_, _, own) in enumerate(objects) for text in own]
                assert [(e["instance"], e["text"]) for e in row["expressions"]] == texts
                assert row["captions"] == [text for _, text in texts]
                for box, mask in zip(row["boxes"], row["masks"], strict=True):
                    published = annotations[(*box, int(row["image_id"]))]["segmentation"]
                    if isinstance(published, list):
                        published = coco_mask.merge(coco_mask.frPyObjects(published, 32, 40))
                    np.testing.assert_array_equal(_decoded(published), _pixels(mask))
    assert seen == manifest.counts["animal"]["train"] + manifest.counts["animal"]["test"] + sum(
        manifest.counts["food"].values()
    )


def _pixels(mask: dict[str, Any]) -> Any:
    return _decoded({"size": [mask["height"], mask["width"]], "counts": mask["counts"]})


def _decoded(run_lengths: dict[str, Any]) -> Any:
    return np.asarray(coco_mask.decode([run_lengths]))[:, :, 0]


def test_an_image_with_objects_of_two_tasks_is_a_row_in_each(tmp_path: Path) -> None:
    """Each task must see its own objects and expressions only."""
    write_unc(tmp_path, *write_images(tmp_path, SPLITS))
    manifest = prepare(tmp_path)
    animal, food = (rows(manifest, task, "train") for task in TASKS)
    both = {row["image_id"] for row in animal} & {row["image_id"] for row in food}
    assert len(both) == 3
    first = min(both)
    assert [r["captions"] for r in animal if r["image_id"] == first] == [
        [f"the animal no {first}", f"left animal {first}"]
    ]
    assert [r["captions"] for r in food if r["image_id"] == first] == [[f"the food no {first}"]]


def test_without_masks_a_box_stands_for_its_object(tmp_path: Path) -> None:
    """MDETR's own files have no outlines; Diff-Prompt needs a mask for every object."""
    write_mdetr(tmp_path, *write_images(tmp_path, SPLITS), masks=False)
    row = rows(prepare(tmp_path, format="mdetr"), "animal", "train")[0]
    assert row["boxes"] == [[0.0, 0.0, 20.0, 30.0]]
    assert _pixels(row["masks"][0]).sum() == 20 * 30
    assert _pixels(row["masks"][0])[:30, :20].all()


def test_one_task_for_the_whole_data_set_with_test_a_and_b_apart(tmp_path: Path) -> None:
    """Diff-Prompt's benchmark: val, testA and testB are reported separately."""
    write_unc(tmp_path, *write_images(tmp_path, {"train": 3, "val": 1, "testA": 1, "testB": 1}))
    splits = {name: [name] for name in ("train", "val", "testA", "testB")}
    manifest = prepare(tmp_path, splits=splits, tasks=["refcoco"], task_by="dataset")
    assert manifest.counts == {"refcoco": {"train": 6, "val": 2, "testA": 2, "testB": 2}}
    row = rows(manifest, "refcoco", "train")[0]
    assert (row["task"], row["super_categories"]) == ("refcoco", ["animal", "food"])


def test_the_result_names_release_and_division_and_counts_shared_images(tmp_path: Path) -> None:
    """Results of one division are not comparable with another's, nor if releases overlap."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    others = [{**ref, "split": "val" if ref["split"] == "train" else "test"} for ref in refs]
    write_unc(tmp_path, instances, others[:6], release="refcocog", split_by="umd")
    write_mdetr(tmp_path, instances, refs, release="refcoco+")
    source = prepare(
        tmp_path,
        tasks=["food"],
        other_releases=[
            "refcocog/refs(umd).p",
            "mdetr_annotations/finetune_refcoco+_testA.json",
        ],
    ).source
    assert (source["dataset"], source["format"], source["split_by"]) == ("refcoco", "unc", "unc")
    assert source["splits"] == {"train": ["train"], "test": ["testA", "testB"]}
    assert source["shared_images"] == {
        "refcocog/refs(umd).p": {"train": {"val": 4}, "test": {"val": 0}},
        "mdetr_annotations/finetune_refcoco+_testA.json": {
            "train": {"testA": 0},
            "test": {"testA": 4},
        },
    }
    assert source["skipped"] == {"train": {"other_task": 3}, "test": {"other_task": 3}}


def test_a_division_that_shares_images_is_refused(tmp_path: Path) -> None:
    """The google division: what is tested would be trained on."""
    instances, refs = write_images(tmp_path, SPLITS)
    refs[-1]["image_id"], refs[-1]["ann_id"] = refs[0]["image_id"], refs[0]["ann_id"]
    refs[-1]["category_id"] = refs[0]["category_id"]
    write_unc(tmp_path, instances, refs, split_by="google")
    with pytest.raises(
        DataError, match=r"split by google: 1 images \(the first is 1000\) are in split 'train' and"
    ):
        prepare(tmp_path, split_by="google")
    assert not (tmp_path / "data").exists()


def test_a_task_that_a_split_has_no_object_of_is_prepared_without_it(tmp_path: Path) -> None:
    """RefCOCO's testA has persons alone: apart from testB eleven of twelve tasks are not in it."""
    instances, refs = write_images(tmp_path, {**SPLITS, "val": 1})
    refs = [ref for ref in refs if ref["split"] != "val" or ref["category_id"] != 2]
    write_unc(tmp_path, instances, refs)
    splits = {"train": ["train"], "val": ["val"], "test": ["testA", "testB"]}
    manifest = prepare(tmp_path, splits=splits)
    assert manifest.counts["food"] == {"train": 6, "val": 0, "test": 6}
    assert manifest.counts["animal"]["val"] == 1
    assert list(read_expressions(manifest.task("food").handle("val"))) == []
    assert Manifest.load(str(tmp_path / "data")).fingerprint == manifest.fingerprint


def test_a_task_that_no_split_has_an_object_of_is_named_with_the_override(tmp_path: Path) -> None:
    """A slip in a name would else be a task of nothing."""
    write_unc(tmp_path, *write_images(tmp_path, SPLITS))
    with pytest.raises(DataError, match="no object of these tasks in any split: fod") as caught:
        prepare(tmp_path, tasks=["animal", "fod", "food"])
    assert "benchmark.options.tasks=[animal,food]" in str(caught.value)
    instances, refs = write_images(tmp_path, {**SPLITS, "val": 1})
    others = [ref for ref in refs if ref["split"] != "val" or ref["category_id"] == 1]
    write_unc(tmp_path, instances, others)
    splits = {"train": ["train"], "val": ["val"], "test": ["testA", "testB"]}
    with pytest.raises(DataError, match="split 'val' has no image of any task"):
        prepare(tmp_path, tasks=["food"], splits=splits)


def test_generic_categories_without_instances_are_explained(tmp_path: Path) -> None:
    """Else the user only hears that there are no rows."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_mdetr(tmp_path, instances, refs, generic=True)
    with pytest.raises(
        DataError, match=r"no object belongs to a task .*set benchmark\.options\.in"
    ):
        prepare(tmp_path, format="mdetr")


def test_files_and_splits_that_are_not_there_are_named_with_what_is(tmp_path: Path) -> None:
    """The message must lead to the option or the download."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    with pytest.raises(DataError, match=r"split_by: .*\(of its kind are there: refs\(unc\)\.p\)"):
        prepare(tmp_path, split_by="umd")
    with pytest.raises(ConfigError, match=r"splits\.test: .* has no split 'test', only train, te"):
        prepare(tmp_path, splits={"train": ["train"], "test": ["test"]})
    with pytest.raises(DataError, match=r"options\.annotations: the folder .*refcoco\+ does not"):
        prepare(tmp_path, annotations="refcoco+", release="refcoco+")
    with pytest.raises(DataError, match=r"options\.images: the folder .*val2014 does not exist"):
        prepare(tmp_path, images="val2014")
    with pytest.raises(DataError, match=r"options\.other_releases: the file .* does not exist"):
        prepare(tmp_path, other_releases=["refcocog/refs(umd).p"])
    write_mdetr(tmp_path, instances, refs)
    with pytest.raises(DataError, match=r"finetune_refcoco_val\.json does not exist"):
        prepare(tmp_path, format="mdetr", splits={"train": ["train"], "test": ["val"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"train": ["train"], "test": ["train"]}}, r"none of these twice"),
        ({"splits": {"train": []}}, r"splits must name at least one split"),
        ({"task_by": "dataset"}, r"one task if task_by=dataset"),
        ({"format": "mdetr", "split_by": "google"}, r"MDETR's files of refcoco follow the split u"),
        ({"format": "mdetr", "task_of_ref": "tasks.json"}, r"MDETR's files have no ref_id"),
        ({"format": "coco"}, r"options\.format='coco' is not one of: unc, mdetr"),
        ({"caption_rule": "clip"}, r"caption_rule: 'clip' is unknown"),
        ({"split": "unc"}, r"unknown key benchmark\.options\.split; did you mean .*split_by"),
    ],
)
def test_options_that_cannot_be_are_refused_before_reading(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Reading takes a while; a slip in the config must not cost it."""
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path, **changes)


def test_a_file_of_tasks_decides_which_task_a_reference_is_of(tmp_path: Path) -> None:
    """Continual protocols publish it so: neither category nor split says it."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    tasks = {str(ref["ref_id"]): ("early", "late")[ref["ref_id"] % 2] for ref in refs}
    left_out = str(next(ref["ref_id"] for ref in refs if ref["split"] == "train"))
    del tasks[left_out]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    manifest = prepare(tmp_path, task_of_ref="tasks.json", tasks=["early", "late"])
    found = {
        (expression["text"], task)
        for task in ("early", "late")
        for row in rows(manifest, task, "train")
        for expression in row["expressions"]
    }
    assert found == {
        (sentence["sent"], tasks[str(ref["ref_id"])])
        for ref in refs
        if ref["split"] == "train" and str(ref["ref_id"]) != left_out
        for sentence in ref["sentences"]
    }


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"99999": "early"}, "1 of its references .the first is 99999. are not in"),
        ({"0": 3}, "3 of ref 0 is no task's name"),
        ([], "is no object of tasks by ref_id"),
    ],
)
def test_a_file_of_tasks_that_does_not_fit_is_named(
    tmp_path: Path, content: Any, named: str
) -> None:
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    (tmp_path / "tasks.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=named):
        prepare(tmp_path, task_of_ref="tasks.json", tasks=["early", "late"])


def test_an_object_of_two_tasks_is_named(tmp_path: Path) -> None:
    """Both tasks would be trained on the same expressions."""
    instances, refs = write_images(tmp_path, SPLITS)
    again = {**refs[0], "ref_id": len(refs)}
    write_unc(tmp_path, instances, [*refs, again])
    tasks = {str(ref["ref_id"]): "early" for ref in refs} | {str(len(refs)): "late"}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError, match="is of task 'late' here and of 'early' in"):
        prepare(tmp_path, task_of_ref="tasks.json", tasks=["early", "late"])


@pytest.mark.parametrize(
    "name", ["lpi_refcoco", "lpi_refcoco_plus", "lpi_refcocog", "diff_prompt_refcoco"]
)
def test_shipped_benchmarks_prepare_the_release_they_name(tmp_path: Path, name: str) -> None:
    """The README's one command: only the root has to be set."""
    benchmark = compose([f"benchmark={name}", f"benchmark.options.root={tmp_path}"]).benchmark
    chosen = benchmark.options
    theirs = {split: 1 for joined in chosen["splits"].values() for split in joined}
    tasks = chosen["tasks"] if name.startswith("lpi") else TASKS
    instances, refs = write_images(tmp_path, theirs, tasks)
    write_unc(tmp_path, instances, refs, release=chosen["release"], split_by=chosen["split_by"])
    manifest = DATASETS.get(benchmark.dataset)(benchmark.name, str(tmp_path / "data"), chosen, None)
    assert manifest.benchmark == name
    assert list(manifest.counts) == chosen["tasks"]
    assert all(all(of_task.values()) for of_task in manifest.counts.values())


def spans_of(manifest: Manifest, split: str) -> list[tuple[str, list[str]]]:
    """Each expression's text and the words that its spans cover."""
    return [
        (e["text"], [e["text"][begin:end] for begin, end in e["spans"]])
        for task in TASKS
        for row in rows(manifest, task, split)
        for e in row["expressions"]
    ]


def write_words(root: Path, *, evaluated: bool) -> None:
    """MDETR's files, with "(very)" and the thing as positive words, the thing to evaluate by."""
    instances, refs = write_images(root, SPLITS)
    for path in write_mdetr(root, instances, refs).iterdir():
        content = json.loads(path.read_text())
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            image["caption"] = f"The (very) {image['caption']}"
            thing = next(task for task in TASKS if task in image["caption"])
            at = image["caption"].index(thing)
            annotation["tokens_positive"] = [[4, 10], [at, at + len(thing)]]
            if evaluated:
                image["tokens_positive_eval"] = [[[at, at + len(thing)]]]
        path.write_text(json.dumps(content))


def test_positive_words_of_mdetr_are_those_of_the_cleaned_text(tmp_path: Path) -> None:
    """Cleaning moves characters: a span taken as it stands would name another word."""
    write_words(tmp_path, evaluated=True)
    manifest = prepare(tmp_path, format="mdetr")
    train, test = spans_of(manifest, "train"), spans_of(manifest, "test")
    assert [set(words) - set(TASKS) for _, words in train] == [{"very"}] * len(train)
    assert {word for _, words in train for word in words} == {"very", *TASKS}
    assert all(len(words) == 1 and words[0] in TASKS for _, words in test)
    counts = manifest.source["positive_words"]
    assert counts == {"train": {"spans": len(train)}, "test": {"spans": len(test)}}
    assert manifest.version == 3
    assert prepare(tmp_path, format="mdetr").fingerprint == manifest.fingerprint


def test_words_that_cleaning_takes_are_said(tmp_path: Path) -> None:
    """A share of the expressions would else be judged by other words than their file names."""
    write_words(tmp_path, evaluated=False)
    path = tmp_path / "mdetr_annotations" / "finetune_refcoco_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:2]:
        annotation["tokens_positive"] = [[4, 5]]  # the bracket
    path.write_text(json.dumps(content))
    said = StringIO()
    experiment = compose(
        [
            "benchmark=lpi_refcoco",
            f"data_path={tmp_path / 'data'}",
            f"benchmark.options.root={tmp_path}",
            "benchmark.options.format=mdetr",
            "benchmark.options.annotations=mdetr_annotations",
            f"benchmark.options.tasks=[{','.join(TASKS)}]",
            "~benchmark.options.splits.val",
        ]
    )
    prepare_benchmark(experiment, Console(file=said, width=300))
    assert "train: cleaning left nothing of some positive words of 2 expressions" in said.getvalue()
    assert "testA: cleaning" not in said.getvalue()


def test_without_words_to_evaluate_by_the_positive_ones_are_taken(tmp_path: Path) -> None:
    write_words(tmp_path, evaluated=False)
    found = spans_of(prepare(tmp_path, format="mdetr"), "test")
    assert all(words[0] == "very" and len(words) == 2 for _, words in found)


def test_data_without_positive_words_are_what_they_were(tmp_path: Path) -> None:
    """Else every run on them would refuse its own benchmark."""
    instances, refs = write_images(tmp_path, SPLITS)
    write_unc(tmp_path, instances, refs)
    manifest = prepare(tmp_path)
    assert manifest.version == 2
    assert manifest.source["positive_words"] == {}
    assert set(rows(manifest, "food", "train")[0]["expressions"][0]) == {"instance", "text"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokens_positive", [[0, "3"]], r"'tokens_positive' is \[\[0, '3'\]\], not a list of \[b"),
        ("tokens_positive", [[5, 3]], r"not a list of \[begin, end\] in the \d+ characters"),
        ("tokens_positive", [[900, 903]], r"not a list of \[begin, end\] in the \d+ characters"),
        ("tokens_positive", 3, r"'tokens_positive' is 3, not a list"),
        ("tokens_positive_eval", [[[0, 3]], [[0, 3]]], r"not a list of one phrase"),
        ("tokens_positive_eval", [[[0]]], r"'tokens_positive_eval\[0\]' is \[\[0\]\], not"),
    ],
)
def test_broken_positive_words_are_named(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    """Taken as none they would silently be all words."""
    write_words(tmp_path, evaluated=True)
    path = tmp_path / "mdetr_annotations" / "finetune_refcoco_testA.json"
    content = json.loads(path.read_text())
    content["images" if field.endswith("eval") else "annotations"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, format="mdetr")
    assert "finetune_refcoco_testA.json" in str(caught.value)
    kept = prepare(tmp_path, format="mdetr", on_error="quarantine")
    assert kept.quarantined["positive words"]["rows"] == 1
