"""`protocol`: corrected, which is our own, or released: the settings of the papers' released code.

`protocol: released` is expanded when the config is composed: the files in configs/released hold
what the code does, as settings like any others, and what a user says against one of them is
refused. Nothing below the config knows a protocol.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from system.config.overrides import key_of, override
from system.errors import ConfigError

RELEASED = "released"
FORMER = "published"  # what `released` was called
DIRECTORY = Path(__file__).resolve().parents[2] / "configs" / RELEASED


def released_files(values: Mapping[str, Any]) -> list[Path]:
    """The files of configs/released that hold for composed values: of objective and method.

    Raises ConfigError for a method that no released code trains on this objective.
    """
    objective = (values.get("stage") or {}).get("objective", "retrieval")
    method = (values.get("method") or {}).get("name")
    own = DIRECTORY / f"{objective}_{method}.yaml"
    if not own.exists():
        known = sorted(
            path.stem.partition("_")[2] for path in DIRECTORY.glob(f"{objective}_*.yaml")
        )
        raise ConfigError(
            f"protocol={RELEASED}: no released code trains method={method} for {objective}; take "
            f"one of {', '.join(known)}, or protocol=corrected"
        )
    common = DIRECTORY / f"{objective}.yaml"
    return [path for path in (common, own) if path.exists()]


def released_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The released code's settings by dotted key; a method's own file wins over the objective's."""
    from yaml import safe_load

    found: dict[str, Any] = {}
    for path in released_files(values):
        found |= dict(_leaves(safe_load(path.read_text("utf-8"))))
    return found


def with_protocol(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Composed values with what their `protocol` stands for.

    Raises ConfigError naming an override that contradicts the released code.
    """
    protocol = values.get("protocol")
    if protocol == FORMER:
        values["protocol"] = protocol = RELEASED
        warnings.warn(
            f"protocol={FORMER} is called protocol={RELEASED} now: write that", FutureWarning, 2
        )
    if protocol != RELEASED:
        return values
    given = {key for key in map(key_of, overrides) if "." in key}  # the others choose groups
    for key, value in released_settings(values).items():
        *sections, name = key.split(".")
        place: Any = values
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else {}
        now = place.get(name)
        if now != value and any(key == one or key.startswith(f"{one}.") for one in given):
            raise ConfigError(
                f"{override(key, now)}: protocol={RELEASED} has {override(key, value)}; leave it "
                "out, or say protocol=corrected"
            )
        place[name] = value
    return values


def former_settings(method: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `protocol: published` meant for adapters saved under it: their method and `inputs`."""
    section = dict(method)
    if method.get("name") == "lpi":
        section |= {"init_seed": 1, "constructed_depth": 9, "prompt_depth": 1, "task_start": "own"}
        contrast = {**(method.get("task_contrast") or {}), "temperature": 0.001}
        align = {**(method.get("layer_alignment") or {}), "similarity": "dot"}
        section |= {"task_contrast": contrast, "layer_alignment": align}
    if method.get("name") == "l2p":
        section["selection"] = "batchwise_leaking"
    return section, {"normalisation": "imagenet", "evaluation_augmentation": "crop_flip"}


def _leaves(section: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
