"""Damaged files of every format end a preparation in a traceback, a hang or elsewhere on disk.

A data set is one entry of `DATA_SETS`. Mutations are seeded: the number in a failure is the seed of
the one to see again.
"""

import json
import pickle
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.errors import PromptideError
from tests.data.coco_files import TASKS, png, write_coco
from tests.data.coco_files import write_karpathy as write_coco_karpathy
from tests.data.datasets.test_lpi_release import write_release
from tests.data.datasets.test_visual_genome import write_genome
from tests.data.flickr_files import write_entities, write_flickr30k, write_mdetr_flickr
from tests.data.refcoco_files import options as refcoco_options
from tests.data.refcoco_files import write_images, write_mdetr, write_unc
from tests.data.tar_files import write_tar

MUTATIONS = 1_000
SECONDS = 10
LONGEST = 2_000  # characters of a line that can still be read

Options = dict[str, Any]


def _coco(root: Path) -> Options:
    options = asdict(write_coco(root, {"train": 2, "test": 2}))
    (root / "tasks.json").write_text(json.dumps({"train_000001.png": "food"}))
    return {**options, "task_overrides": "tasks.json"}


def _detection(root: Path) -> Options:
    options = asdict(write_coco(root, {"train": 2, "test": 2}))
    for files in options["splits"].values():
        files |= {"captions": None, "refs": None}
    return {**options, "caption_template": "a photo of a {category}"}


def _karpathy(root: Path) -> Options:
    write_coco(root, {"train2014": 2, "val2014": 3})
    write_coco_karpathy(
        root, {5: "restval", 6: "restval", 7: "val", 8: "val", 9: "test", 10: "test"}
    )
    return {"tasks": list(TASKS)}


def _flickr30k(root: Path) -> Options:
    write_flickr30k(root, {"train": 2, "val": 1, "test": 1})
    return {}


def _entities(root: Path) -> Options:
    write_entities(root, {"train": 2, "val": 1, "test": 1})
    return {}


def _unc(root: Path) -> Options:
    instances, refs = write_images(root, {"train": 1, "testA": 1, "testB": 1})
    write_unc(root, instances, refs)
    return refcoco_options(root)


def _mdetr(root: Path) -> Options:
    instances, refs = write_images(root, {"train": 1, "testA": 1, "testB": 1})
    write_mdetr(root, instances, refs)
    return {**refcoco_options(root, format="mdetr"), "task_by": "super_category"}


def _rows(root: Path) -> list[dict[str, Any]]:
    """Rows of a captions table, whose images are written."""
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        (root / "cats").mkdir(parents=True, exist_ok=True)
        name = f"cats/{number}.png"
        (root / name).write_bytes(png((12, 10), number))
        rows.append({"file_name": name, "caption": f'no. "{number}", a cat', "split": split})
    return rows


def _csv(root: Path) -> Options:
    csv.write_csv(pa.Table.from_pylist(_rows(root)), root / "captions.csv")
    return {"captions": "captions.csv"}


def _tsv(root: Path) -> Options:
    lines = ["\t".join(row.values()) for row in [{k: k for k in _rows(root)[0]}, *_rows(root)]]
    (root / "captions.tsv").write_text("\n".join(lines))
    return {"captions": "captions.tsv"}


def _json_lines(root: Path) -> Options:
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(root)))
    return {"captions": "captions.jsonl"}


def _parquet(root: Path) -> Options:
    pq.write_table(pa.Table.from_pylist(_rows(root)), root / "captions.parquet")
    return {"captions": "captions.parquet"}


def _json(root: Path) -> Options:
    (root / "captions.json").write_text(json.dumps(_rows(root)))
    return {"captions": "captions.json"}


def _text_lines(root: Path) -> Options:
    lines = [f"{row['file_name']}#0\t{row['caption']}\n" for row in _rows(root)]
    (root / "captions.token.txt").write_text("".join(lines))
    return {"captions": "captions.token.txt"}


def _parquet_images(root: Path) -> Options:
    rows = [
        {
            "image": {"bytes": png((12, 10), number), "path": f"{number}.png"},
            "text": [f"a cat, no. {number}"],
            "split": split,
        }
        for number, split in enumerate(("train", "train", "val", "test"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "captions.parquet")
    return {"captions": "captions.parquet", "task_by": "dataset"}


def _class_folder(root: Path) -> Options:
    number = 0
    for split in ("train", "test"):
        for name in ("guinea_pig", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / f"{number}.png").write_bytes(png((12, 10), number))
            number += 1
    return {}


def _tars(root: Path) -> Options:
    for place, split in enumerate(("train", "val", "test")):
        members = []
        for key in (f"{place}0", f"{place}1"):
            fields = json.dumps({"task": "cats", "image_id": key}).encode()
            members += [(f"{key}.png", png((12, 10), int(key))), (f"{key}.json", fields)]
            members.append((f"{key}.txt", b"a cat"))
        write_tar(root / f"{split}-0.tar", members)
    return {}


def _hub_saved(root: Path) -> Options:
    _hub_splits().save_to_disk(str(root))
    return {}


def _hub_files(root: Path) -> Options:
    for split, table in _hub_splits().items():
        table.to_parquet(str(root / f"{split}.parquet"))
    return {}


def _hub_splits() -> datasets.DatasetDict:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.List(datasets.Value("string")),
            "task": datasets.ClassLabel(names=["cats", "dogs"]),
        }
    )
    splits = {}
    for place, split in enumerate(("train", "validation", "test")):
        rows = [
            {
                "image": {"bytes": png((12, 10), 10 * place + n), "path": f"{place}{n}.png"},
                "text": ["a cat"],
                "task": n,
            }
            for n in range(2)
        ]
        splits[split] = datasets.Dataset.from_list(rows, features=features)
    return datasets.DatasetDict(splits)


def _flickr_mdetr(root: Path) -> Options:
    write_mdetr_flickr(root, {"train": 1, "val": 1, "test": 1})
    return {}


def _lpi_release(root: Path) -> Options:
    write_release(root, per_task=1)
    return {}


def _referring(root: Path) -> Options:
    rows = []
    for row in _rows(root):
        box = {"box": [1, 2, 6, 5], "segmentation": [[1, 2, 7, 2, 7, 7, 1, 7]]}
        rows.append({**row, "expression": row.pop("caption"), **box})
    (root / "expressions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"expressions": "expressions.jsonl", "box_format": "xywh"}


def _referring_csv(root: Path) -> Options:
    lines = [f"{row['file_name']},the cat,{row['split']},1,2,6,5\n" for row in _rows(root)]
    text = "image,expression,split,x,y,w,h\n" + "".join(lines)
    (root / "expressions.csv").write_text(text)
    return {}


def _visual_genome(root: Path) -> Options:
    write_genome(root)
    return {}


#: Of each format its benchmark config and a function that writes a small data set and returns the
#: options that differ from the config's.
DATA_SETS: Mapping[str, tuple[str, Callable[[Path], Options]]] = {
    "coco": ("coco", _coco),
    "detection": ("detection", _detection),
    "coco_karpathy": ("coco_karpathy", _karpathy),
    "flickr30k": ("flickr30k", _flickr30k),
    "flickr30k_entities": ("diff_prompt_flickr30k", _entities),
    "flickr30k_mdetr": ("mdetr_flickr30k", _flickr_mdetr),
    "refcoco, unc": ("lpi_refcoco", _unc),
    "refcoco, mdetr": ("diff_prompt_refcoco", _mdetr),
    "folder, csv": ("folder", _csv),
    "folder, tsv": ("folder", _tsv),
    "folder, json lines": ("folder", _json_lines),
    "folder, json": ("folder", _json),
    "folder, text lines": ("folder", _text_lines),
    "folder, parquet": ("folder", _parquet),
    "folder, parquet with images": ("folder", _parquet_images),
    "class_folder": ("class_folder", _class_folder),
    "lpi_release": ("lpi_release", _lpi_release),
    "referring, json lines": ("referring", _referring),
    "referring, csv": ("referring", _referring_csv),
    "visual_genome": ("visual_genome", _visual_genome),
    "webdataset": ("webdataset", _tars),
    "huggingface, saved": ("huggingface", _hub_saved),
    "huggingface, parquet": ("huggingface", _hub_files),
}

IMAGES = (".png", ".jpg")
BINARY = (*IMAGES, ".p", ".parquet", ".arrow", ".tar")
TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[^\s,;:\[\]{}<>"]+')
NASTY = (
    *(b"-1", b"0", b"1", b"0.5", b"1e999", b"-1e-999", b"NaN", b"-Infinity", b"1" * 400),
    *(b"9223372036854775808", b"18446744073709551616", b"1000000000", b"65536.0"),
    *(b"null", b"true", b"[]", b"{}", b'""', b'" "', b"[[[]]]", b'{"a": 1}', b'"\\ud800"'),
    *(b'"\\u0000"', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"../../outside.png"', b"../x"),
    *(b'"/etc/hostname"', b'"."', b'"' + b"a" * 5_000 + b'"', b"[" * 3_000, b'{"a":' * 3_000),
    *(b"\r", b"\r\n\r\n", b"\t", b",", b'"', b"'", b"=1+1", b"<", b"&x;", b"<!DOCTYPE x>"),
    *("ß".encode(), "e\u0301".encode(), "\u202e\U0001f408".encode(), "\u2028".encode()),
)


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, 1.0, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "nan", "\0", "\ud800", "a" * 5_000),
    *("../x", "../outside.png", "/etc/hostname", ".", "a/b", "\u202e", "e\u0301", "<person>"),
    *([], {}, [[]], [None], [0] * 6, [[0] * 6], [[0] * 5], [1e308] * 4, [10**400] * 4, [-5] * 4),
    *([float("nan")] * 4, [[1e308] * 8], {"size": [16, 20], "counts": "0"}),
    *({"size": [16, 20], "counts": [10**12]}, {"size": [16, 20], "counts": [320]}),
    {"size": [2**31, 2**31], "counts": "o" * 20},
)


def mutate(path: Path, draw: np.random.Generator) -> None:
    """Change a file: the values in it, where its format has values, or else its bytes."""
    change = {".json": _json_values, ".jsonl": _json_line_values, ".p": _pickled_values}.get(
        path.suffix, _table_values if path.suffix == ".parquet" else None
    )
    data = path.read_bytes()
    if change is not None and draw.integers(3):
        path.write_bytes(change(data, draw))
    else:
        path.write_bytes(mutated_bytes(data, draw, text=path.suffix not in BINARY))


def _json_values(data: bytes, draw: np.random.Generator) -> bytes:
    return json.dumps(_changed(json.loads(data), draw)).encode()


def _json_line_values(data: bytes, draw: np.random.Generator) -> bytes:
    lines = data.splitlines()
    at = int(draw.integers(len(lines)))
    lines[at] = _json_values(lines[at], draw)
    return b"\n".join(lines)


def _pickled_values(data: bytes, draw: np.random.Generator) -> bytes:
    value = _changed(pickle.loads(data, encoding="latin1"), draw)
    return pickle.dumps(value, protocol=int(draw.integers(pickle.HIGHEST_PROTOCOL + 1)))


def _table_values(data: bytes, draw: np.random.Generator) -> bytes:
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    name = list(rows[0])[int(draw.integers(len(rows[0])))]
    if draw.integers(2):  # all rows, so that the column has another type
        value = VALUES[int(draw.integers(len(VALUES)))]
        rows = [{**row, name: value} for row in rows]
    else:
        rows = [_changed(row, draw) if draw.integers(2) else row for row in rows]
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(rows), sink)
    except (pa.ArrowException, OverflowError, TypeError, AttributeError, UnicodeEncodeError):
        return data[: len(data) // 2]  # no table can hold that
    return bytes(sink.getvalue())


def _changed(value: Any, draw: np.random.Generator) -> Any:
    """Change one value somewhere inside: leave it out, replace it, repeat it."""
    if isinstance(value, dict) and value and draw.integers(12):
        key = list(value)[int(draw.integers(len(value)))]
        if draw.integers(8) == 0:
            return {other: value[other] for other in value if other != key}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.integers(12):
        at = int(draw.integers(len(value)))
        if draw.integers(8) == 0:
            return [*value[:at], *[value[at]] * 2 * int(draw.integers(2)), *value[at + 1 :]]
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    return VALUES[int(draw.integers(len(VALUES)))]


def mutated_bytes(data: bytes, draw: np.random.Generator, *, text: bool) -> bytes:
    """Change a file's bytes in one to three ways."""
    for _ in range(int(draw.integers(1, 4))):
        kinds = [_flip, _insert, _delete, _truncate, _duplicate]
        if text:
            kinds += [_replace_token, _replace_token, _replace_token, _swap_lines, _insert_text]
        data = kinds[int(draw.integers(len(kinds)))](data, draw)
    return data


def _span(data: bytes, draw: np.random.Generator, most: int = 64) -> tuple[int, int]:
    start = int(draw.integers(len(data) + 1))
    return start, min(len(data), start + int(draw.integers(1, most)))


def _flip(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(draw.integers(1, 9)) if data else 0):
        changed[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _insert(data: bytes, draw: np.random.Generator) -> bytes:
    start, _ = _span(data, draw)
    return data[:start] + draw.bytes(int(draw.integers(1, 17))) + data[start:]


def _insert_text(data: bytes, draw: np.random.Generator) -> bytes:
    start, _ = _span(data, draw)
    return data[:start] + NASTY[int(draw.integers(len(NASTY)))] + data[start:]


def _delete(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _span(data, draw)
    return data[:start] + data[stop:]


def _truncate(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(len(data) + 1))]


def _duplicate(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _span(data, draw, 400)
    return data[:stop] + data[start:]


def _swap_lines(data: bytes, draw: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    first, second = draw.integers(len(lines), size=2).tolist()
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _replace_token(data: bytes, draw: np.random.Generator) -> bytes:
    found = list(TOKEN.finditer(data))
    if not found:
        return data
    token = found[int(draw.integers(len(found)))]
    other = NASTY[int(draw.integers(len(NASTY)))]
    if draw.integers(3) == 0:
        other = found[int(draw.integers(len(found)))].group()
    return data[: token.start()] + other + data[token.end() :]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after some time."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def files_of(root: Path) -> set[tuple[str, int]]:
    """All files under a folder with their sizes."""
    return {(str(path), path.lstat().st_size) for path in root.rglob("*")}


def ending(dataset: str, options: Options, root: Path, output: Path) -> str | None:
    """Prepare a damaged data set: what is wrong with how that ended, None if nothing is."""
    outside = files_of(root)
    try:
        with at_most(SECONDS):
            DATASETS.get(dataset)("fuzz", str(output), {**options, "root": str(root)}, None)
    except PromptideError as error:
        message = str(error)
        if not message.isprintable() or len(message) > LONGEST:
            return f"not one clear line: {message!r}"
    except BaseException:
        return traceback.format_exc()
    if files_of(root) != outside:
        return "the data set's folder has other files than before"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_SETS)
def test_damaged_files_end_prepared_or_in_one_clear_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = tmp_path_factory.mktemp("cache")  # of the library that reads data sets of the Hub
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    config, write = DATA_SETS[name]
    whole, root, output = (tmp_path / part for part in ("whole", "root", "output"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    whole.mkdir()
    benchmark = compose([f"benchmark={config}"]).benchmark
    options = {**benchmark.options, **write(whole), "root": str(whole)}
    DATASETS.get(benchmark.dataset)("whole", str(output), options, None)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    annotations = [path for path in files if path.suffix not in IMAGES] or files
    wrong = {}
    for number in range(-(-MUTATIONS // len(DATA_SETS))):
        draw = np.random.default_rng([number])
        for folder in (root, output):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, root)
        among = files if draw.integers(4) == 0 else annotations
        path = root / among[int(draw.integers(len(among)))]
        mutate(path, draw)
        on_error = ("stop", "quarantine")[number % 2]
        found = ending(benchmark.dataset, {**options, "on_error": on_error}, root, output)
        if found is not None:
            wrong[f"{number}: {path.name}"] = found
    assert not wrong, "\n\n".join(f"{key}\n{value}" for key, value in wrong.items())
    assert {path.name for path in tmp_path.iterdir()} <= {"whole", "root", "output", "temporary"}
    assert not list(temporary.iterdir())
