"""Where a data set lies on disk: its root and the folders in it, checked before use."""

from pathlib import Path

from system.errors import DataError
from system.uris import absolute


def dataset_root(root: str) -> Path:
    """Return the folder that `benchmark.options.root` names.

    Raises: DataError if it does not exist.
    """
    path = Path(absolute(root))
    if not path.is_dir():
        raise DataError(
            f"benchmark.options.root: the folder {path} does not exist: set it to the folder that "
            "holds the dataset's images and annotations"
        )
    return path


def dataset_folder(root: Path, name: str, field: str) -> Path:
    """Return a folder in the root; `field` is the option of `benchmark.options` that names it.

    Raises: DataError if it does not exist.
    """
    path = root / name
    if not path.is_dir():
        raise DataError(
            f"benchmark.options.{field}: the folder {path} does not exist: fetch the dataset or "
            "correct this field"
        )
    return path
