"""The files that a data set's options need, and where published ones are to be had."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from system.config.parse import parse_dataclass
from system.data.prepare.pipeline import ReaderOptions
from system.registry import Registry


@dataclass(frozen=True, slots=True)
class Archive:
    """A published file: its address, its size in bytes and its SHA-256, where they are known.

    `files` is how many files it unpacks to in the folder that needs it; `note` what else to know.
    """

    address: str
    size: int | None = None
    sha256: str | None = None
    files: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class NeededFile:
    """A file or folder that an option names, relative to the data set's root.

    `parts` are the files that a pattern stands for. `images`: it is a folder of images, or a file
    that holds them, whose bytes become shards.
    """

    option: str  # without "benchmark.options."
    path: str
    archive: Archive | None = None
    images: bool = False
    parts: tuple[str, ...] = ()


#: From a benchmark's options to the files that they need; None if that cannot be told.
Needs = Callable[[Mapping[str, Any]], list[NeededFile] | None]
Options = TypeVar("Options", bound=ReaderOptions)

NEEDS: Registry[Needs] = Registry("dataset", "system.data", "NEEDED")


def needs(
    options_class: type[Options], listed: Callable[[Options], list[NeededFile] | None]
) -> Needs:
    """Make a data set's entry in `NEEDS` from its options and what lists their files.

    The list must not need the files themselves: `root` may not be there yet.
    """

    def of(options: Mapping[str, Any]) -> list[NeededFile] | None:
        return listed(parse_dataclass(options_class, options, "benchmark.options"))

    return of


def no_files(options: Mapping[str, Any]) -> list[NeededFile]:
    """The `NEEDED` of a data set that promptide makes itself."""
    return []


# Sizes and SHA-256 are those that TensorFlow Datasets downloads by (url_checksums/coco2014.txt,
# coco2017.txt and coco_captions.txt of its repository); numbers of images are MSCOCO's.
_COCO = "http://images.cocodataset.org"
COCO: Mapping[str, Archive] = {
    "train2014": Archive(
        f"{_COCO}/zips/train2014.zip",
        13510573713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        82783,
    ),
    "val2014": Archive(
        f"{_COCO}/zips/val2014.zip",
        6645013297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        40504,
    ),
    "annotations2014": Archive(
        f"{_COCO}/annotations/annotations_trainval2014.zip",
        252872794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    "train2017": Archive(
        f"{_COCO}/zips/train2017.zip",
        19336861798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        118287,
    ),
    "val2017": Archive(
        f"{_COCO}/zips/val2017.zip",
        815585330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        5000,
    ),
    "annotations2017": Archive(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        252907541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
}

KARPATHY = Archive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    36745453,
    "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
)
FLICKR30K_IMAGES = Archive(
    "https://shannon.cs.illinois.edu/DenotationGraph/",
    files=31783,
    note="the photographs are given on request, by the form on this page",
)
FLICKR30K_ENTITIES = Archive(
    "https://github.com/BryanPlummer/flickr30k_entities",
    note="annotations.zip holds Annotations and Sentences; the split lists lie beside it",
)
# The university's server is gone; these are its files as the Internet Archive keeps them
# (github.com/lichengunc/refer, issues 14 and 26).
UNC_REFS: Mapping[str, Archive] = {
    release: Archive(
        f"https://web.archive.org/web/{stamp}/"
        f"https://bvisionweb1.cs.unc.edu/licheng/referit/data/{release}.zip",
        note="a copy: the server of the original address is gone",
    )
    for release, stamp in (
        ("refcoco", "20220413011718"),
        ("refcoco+", "20220413011656"),
        ("refcocog", "20220413012904"),
    )
}
MDETR_REFS = Archive("https://zenodo.org/record/4729015/files/mdetr_annotations.tar.gz")


def coco_archive(path: str) -> Archive | None:
    """The archive of MSCOCO that a file or folder of this name is from, if it is one of its own."""
    name = path.rpartition("/")[2]
    if name in COCO:
        return COCO[name]
    for year in ("2014", "2017"):
        for kind in ("captions", "instances"):
            if name in (f"{kind}_train{year}.json", f"{kind}_val{year}.json"):
                return COCO[f"annotations{year}"]
    return None
