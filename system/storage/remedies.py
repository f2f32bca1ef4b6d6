"""What to do about a file that is damaged or gone, by its name; see docs/damage.md."""

import re

_REWRITTEN = "run the same `promptide run` command again, which rewrites it"
_RESTORE = "restore it from a copy"
_REMEDIES = (
    (
        r"task-\d+\.safetensors|adapter\.json",
        "restore it from a copy of the adapters, or learn the stream under another run_name",
    ),
    (r"metrics\.json|outcome\.json|quarantine\.parquet", _REWRITTEN),
    (r"(accuracy_matrix|access_log|training_log|examples|box_examples|ranks)\.parquet", _REWRITTEN),
    (r"config\.yaml", f"{_RESTORE}; if it was edited by hand, delete its first line"),
    (r"contents\.json", "delete it, then the places that config.yaml names must not change"),
    (r"manifest\.json|split\.json", "run `promptide prepare` for this benchmark again"),
    (r"checkpoint\.safetensors", "it is dropped, and the training begins again from its start"),
    (r"generator\.safetensors", "delete its folder, then it is trained again"),
    (r"(wandb|mlflow)\.json", "delete it, then the run is logged as a new one"),
    (r"part-\d+\.parquet|[0-9a-f]{32}\.\w+", "delete it, then it is made again"),
)


def remedy_of(name: str) -> str:
    """What a user can do about the file of that name."""
    for pattern, remedy in _REMEDIES:
        if re.fullmatch(pattern, name):
            return remedy
    return _RESTORE
