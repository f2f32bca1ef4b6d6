"""What the splits of a benchmark of referring expressions must satisfy, and what they share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from system.data.formats.mdetr_refs import mdetr_image_ids
from system.data.formats.unc_refs import unc_image_ids
from system.errors import DataError


def check_images_apart(release: str, image_ids: Mapping[str, set[int]]) -> None:
    """Check that no image is in two splits; `image_ids` is {split: MSCOCO's numbers}.

    Raises: DataError naming the splits, the number of images and what to do.
    """
    names = list(image_ids)
    for position, split in enumerate(names):
        for other in names[:position]:
            shared = image_ids[split] & image_ids[other]
            if shared:
                raise DataError(
                    f"{release}: {len(shared)} images (the first is {min(shared)}) are in split "
                    f"{other!r} and in split {split!r}, so what is tested would be trained on. The "
                    "google division shares out objects, not images: choose split_by unc or umd, "
                    "or take one of the two out of benchmark.options.splits"
                )


def shared_images(path: Path, image_ids: Mapping[str, set[int]]) -> dict[str, dict[str, int]]:
    """Count the images that splits share with another release's: {ours: {theirs: images}}."""
    read_ids = unc_image_ids if path.suffix == ".p" else mdetr_image_ids
    theirs = read_ids(path, "benchmark.options.other_releases")
    return {
        split: {name: len(ids & of_other) for name, of_other in theirs.items()}
        for split, ids in image_ids.items()
    }


def check_tasks_there(
    release: str,
    counts: Mapping[str, Mapping[str, int]],
    theirs: Mapping[str, str],
    tasks: Sequence[str],
) -> None:
    """Check that each task has rows in each split: some super-categories are rare here.

    `counts` is {split: {task: rows}}, `theirs` says which of the release's splits each is made of.
    Raises: DataError naming splits and tasks, and the overrides that leave them out.
    """
    missing = {
        split: absent
        for split, of_split in counts.items()
        if (absent := [task for task in tasks if not of_split.get(task)])
    }
    if not missing:
        return
    if not any(sum(of_split.values()) for of_split in counts.values()):
        raise DataError(
            f"{release}: no object belongs to a task of benchmark.options.tasks "
            f"({', '.join(tasks)}). If the file's categories are generic, set "
            "benchmark.options.instances to MSCOCO's instances_train2014.json"
        )
    without = {task for of_split in missing.values() for task in of_split}
    told = "; ".join(
        f"{split!r} (of {theirs[split]}): {', '.join(of_split)}"
        for split, of_split in missing.items()
    )
    advice = []
    if left := [task for task in tasks if task not in without]:
        advice.append(f"take the tasks out with benchmark.options.tasks=[{','.join(left)}]")
    # A stream needs these two; what else there is can be done without.
    if spare := [split for split in missing if split not in ("train", "test")]:
        removed = " ".join(f"~benchmark.options.splits.{split}" for split in spare)
        advice.append(f"take out what a stream does not need with {removed}")
    advice.append("join more of the release's splits into one of benchmark.options.splits")
    raise DataError(
        f"{release}, refers to no object of these tasks in split {told}: {', or '.join(advice)}"
    )
